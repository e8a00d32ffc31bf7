# The controller's module on NixOS: it starts in its sandbox, takes its keys from systemd, opens its socket to operators
# only, reads the trunk, and can root what it builds. Written for nixosTest; see docs/operations.md for where it was run.
{ self }:
{
  name = "trueup-controller";

  nodes.hub =
    { pkgs, ... }:
    {
      imports = [ self.nixosModules.controller ];
      environment.systemPackages = [ pkgs.gitMinimal ];
      users.users.ana.isNormalUser = true;
      users.users.bob.isNormalUser = true;
      services.trueup.controller = {
        enable = true;
        repository.url = "/srv/fleet.git";
        repository.interval = "5s";
        signingKeyFile = "/var/keys/store.key";
        operators = [ "ana" ];
      };
      # The trunk and the key are there before the controller is.
      systemd.services.seed = {
        before = [ "trueup-controller.service" ];
        requiredBy = [ "trueup-controller.service" ];
        path = [
          pkgs.gitMinimal
          pkgs.nix
        ];
        environment.HOME = "/root";
        serviceConfig.Type = "oneshot";
        serviceConfig.RemainAfterExit = true;
        script = ''
          mkdir -p /var/keys /srv/work/fleet
          chmod 700 /var/keys
          nix-store --generate-binary-cache-key test-1 /var/keys/store.key /var/keys/store.pub
          cd /srv/work
          git init -b main .
          cat > fleet/fleet.yaml <<'YAML'
          apiVersion: trueup/v1alpha1
          kind: Fleet
          metadata: {name: test}
          spec: {defaults: {system: x86_64-linux}}
          ---
          apiVersion: trueup/v1alpha1
          kind: Host
          metadata: {name: web-1}
          spec: {address: 192.0.2.1, file: hosts.nix}
          YAML
          echo '{ web-1 = throw "never built here"; }' > hosts.nix
          git add .
          git -c user.name=t -c user.email=t@t commit -m first
          git clone --bare /srv/work /srv/fleet.git
          chown -R trueup: /srv/fleet.git
        '';
      };
    };

  testScript = ''
    hub.wait_for_unit("trueup-controller.service")
    hub.wait_for_file("/run/trueup/api.sock")

    with subtest("an operator reads the fleet, and nobody else does"):
        hub.wait_until_succeeds("su ana -c 'trueup get hosts -o json' | grep web-1")
        hub.fail("su bob -c 'trueup get hosts'")

    with subtest("the key came from systemd, so that none was made"):
        hub.fail("test -e /var/lib/trueup/keys/store.key")
        hub.succeed("test $(stat -c %a /var/lib/trueup) = 700")

    with subtest("the sandbox holds"):
        pid = hub.succeed("systemctl show -P MainPID trueup-controller").strip()
        assert "CapEff:\t0000000000000000" in hub.succeed(f"cat /proc/{pid}/status")
        hub.succeed("systemd-analyze security trueup-controller --threshold=35 --no-pager")

    with subtest("a stop and a start lose nothing"):
        hub.succeed("systemctl restart trueup-controller")
        hub.wait_until_succeeds("su ana -c 'trueup get hosts -o json' | grep web-1")
        hub.succeed("trueup db check --state-dir /var/lib/trueup")
  '';
}
