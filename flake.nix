{
  description = "trueup: GitOps for fleets of NixOS hosts";

  # The modules ask nothing of a nixpkgs in particular; the package wants its rustc to be 1.95 or newer.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      each = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      # A module whose packages are this flake's own, whatever nixpkgs the host has. No option of nixpkgs is set for that:
      # a host (and each machine of a NixOS test) may have those read-only.
      module =
        file: own:
        { pkgs, ... }:
        {
          imports = [ file ];
          config.services.trueup = own pkgs.stdenv.hostPlatform.system;
        };
      ofController = system: {
        controller.package = lib.mkDefault self.packages.${system}.trueup;
        controller.agentPackages = lib.mkDefault { ${system} = self.packages.${system}.trueup-agent; };
      };
      ofAgent = system: { agent.package = lib.mkDefault self.packages.${system}.trueup-agent; };
    in
    {
      overlays.default = final: _: {
        trueup = final.callPackage ./nixos/packages/trueup.nix { };
        trueup-agent = final.callPackage ./nixos/packages/agent.nix { };
      };

      packages = each (
        pkgs:
        let
          ours = self.overlays.default (pkgs // ours) pkgs;
        in
        ours // { default = ours.trueup; }
      );

      nixosModules = {
        default = module ./nixos (system: ofController system // ofAgent system);
        controller = module ./nixos/controller.nix ofController;
        agent = module ./nixos/agent.nix ofAgent;
        builder = ./nixos/builder.nix;
        cache = ./nixos/cache.nix;
      };

      checks = each (
        pkgs:
        { inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) trueup trueup-agent; }
        // import ./nixos/tests { inherit self pkgs; }
      );

      devShells = each (pkgs: {
        default = pkgs.callPackage ./nixos/shell.nix { };
      });

      apps = each (pkgs: {
        demo = {
          type = "app";
          program = lib.getExe (pkgs.callPackage ./nixos/demo.nix { });
          meta.description = "Three lab hosts on this machine; run it in a checkout of trueup";
        };
      });

      formatter = each (pkgs: pkgs.nixfmt);
    };
}
