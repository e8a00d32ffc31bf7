# The loop on NixOS itself: a hub and a host, a merge that lands and one that shuts sshd out and is taken back by the
# host. Both closures are built outside, so that no machine needs a network. Written for nixosTest; see
# docs/operations.md for where it was run.
{ self }:
{ lib, hostPkgs, ... }:
let
  pkgs = hostPkgs;
  keys = import (pkgs.path + "/nixos/tests/ssh-keys.nix") pkgs;
  host =
    { pkgs, ... }:
    {
      imports = [ self.nixosModules.agent ];
      services.openssh.enable = true;
      services.trueup.agent = {
        enable = true;
        authorizedKeys = [ (lib.trim keys.snakeOilEd25519PublicKey) ];
      };
      # The hub makes its key at its first start, after this host was built.
      nix.settings.require-sigs = false;
      networking.hostName = "web1";
      environment.etc.release.text = lib.mkDefault "zero";
      system.switch.enable = true;
    };
  variants = {
    good.environment.etc.release.text = "one";
    # It starts, stays up, and lets nobody in.
    bad = {
      environment.etc.release.text = "two";
      services.openssh.ports = lib.mkForce [ 2222 ];
      networking.firewall.allowedTCPPorts = lib.mkForce [ ];
    };
  };
in
{
  name = "trueup-loop";

  nodes = {
    web1 = {
      imports = [ host ];
      specialisation = lib.mapAttrs (_: configuration: { inherit configuration; }) variants;
    };
    hub =
      { nodes, pkgs, ... }:
      let
        closure = variant: nodes.web1.specialisation.${variant}.configuration.system.build.toplevel;
        names = variant: {
          drvPath = builtins.unsafeDiscardStringContext (closure variant).drvPath;
          outPath = builtins.unsafeDiscardStringContext (closure variant).outPath;
        };
        hosts = lib.mapAttrs (variant: _: pkgs.writeText "hosts.nix" ''
          { web1 = builtins.fromJSON '''${builtins.toJSON (names variant)}'''; }
        '') variants;
      in
      {
        imports = [ self.nixosModules.controller ];
        environment.systemPackages = [ pkgs.gitMinimal ];
        # The derivations, and what they make: then a build has nothing to do.
        virtualisation.additionalPaths = lib.concatMap (v: [
          (closure v)
          (builtins.unsafeDiscardOutputDependency (closure v).drvPath)
        ]) (lib.attrNames variants);
        virtualisation.memorySize = 2048;
        environment.etc = lib.mapAttrs' (v: f: lib.nameValuePair "variants/${v}.nix" { source = f; }) hosts // {
          # The repository is the controller's, and root commits to it.
          gitconfig.text = "[safe]\n\tdirectory = *\n";
          "ssh.key" = {
            source = keys.snakeOilEd25519PrivateKey;
            mode = "0400";
          };
        };
        services.trueup.controller = {
          enable = true;
          repository.url = "/srv/fleet.git";
          repository.interval = "5s";
          ssh.keyFile = "/etc/ssh.key";
        };
        systemd.services.trueup-controller.wantedBy = lib.mkForce [ ];
      };
  };

  testScript = ''
    import textwrap

    start_all()
    web1.wait_for_unit("sshd.service")
    hub.wait_for_unit("multi-user.target")

    key = web1.succeed("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub").strip()
    manifest = textwrap.dedent(f"""
        apiVersion: trueup/v1alpha1
        kind: Fleet
        metadata: {{name: test}}
        spec: {{adopt: auto, defaults: {{system: x86_64-linux, activation: {{confirmTimeout: 30s}}}}}}
        ---
        apiVersion: trueup/v1alpha1
        kind: Host
        metadata: {{name: web1}}
        spec: {{address: web1, file: hosts.nix, ssh: {{hostKeys: ["{key}"]}}}}
    """)

    def commit(variant):
        hub.succeed(
            f"cp /etc/variants/{variant}.nix /srv/work/hosts.nix && cd /srv/work && git add . &&"
            f" git -c user.name=t -c user.email=t@t commit -qm {variant} && git push -q /srv/fleet.git main"
            " && chown -R trueup: /srv/fleet.git"
        )

    hub.succeed("mkdir -p /srv/work/fleet && git init -q -b main /srv/work && git init -q --bare -b main /srv/fleet.git")
    hub.succeed(f"cat > /srv/work/fleet/fleet.yaml <<'YAML'\n{manifest}\nYAML")
    commit("good")
    hub.succeed("systemctl start trueup-controller")

    with subtest("a merge lands, and what boots next is what runs"):
        web1.wait_until_succeeds("grep -qx one /etc/release")
        hub.succeed("trueup reconcile host/web1 --wait --timeout 5m")
        web1.succeed("test $(readlink -f /nix/var/nix/profiles/system) = $(readlink -f /run/current-system)")

    with subtest("a merge that shuts sshd out is taken back by the host"):
        before = web1.succeed("readlink -f /run/current-system").strip()
        commit("bad")
        web1.wait_until_succeeds("grep -qx two /etc/release")
        web1.wait_until_succeeds(f"test $(readlink -f /run/current-system) = {before}", timeout=180)
        web1.succeed(f"test $(readlink -f /nix/var/nix/profiles/system) = {before}")
        hub.wait_until_succeeds("trueup describe host/web1 | grep -q RolledBack")
  '';
}
