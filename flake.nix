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
      # A module whose packages are this flake's own, whatever nixpkgs the host has.
      module =
        file:
        { pkgs, lib, ... }:
        {
          imports = [ file ];
          nixpkgs.overlays = [ self.overlays.default ];
        };
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
        default = module ./nixos;
        controller = module ./nixos/controller.nix;
        agent = module ./nixos/agent.nix;
        builder = module ./nixos/builder.nix;
        cache = module ./nixos/cache.nix;
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
