# `services.trueup.agent.secrets`: names of the fleet's secrets that this host's configuration uses, as paths, and what
# brings them back at boot from the ciphertext that the agent keeps. What a secret holds, and who gets it, is the kind
# `Secret`'s to say, in the fleet's repository.
{
  config,
  lib,
  ...
}:
let
  inherit (lib)
    mkIf
    mkOption
    literalExpression
    types
    ;
  cfg = config.services.trueup.agent;
  brought =
    if cfg.forcedCommand then
      "${cfg.package}/bin/trueup-agent"
    else
      "/nix/var/nix/gcroots/trueup/agent/bin/trueup-agent";
  kept = "/nix/var/trueup/secrets.json";
  # There from the first tmpfiles run of a boot on: whoever starts units later (an activation) must not bring back what
  # was committed before it.
  marker = "/run/trueup/booted";
  makers = [
    "systemd-sysusers.service"
    "userborn.service"
  ];
  byUnits = (config.systemd.sysusers.enable or false) || (config.services.userborn.enable or false);
  forUsers = lib.any (s: s.neededForUsers) (lib.attrValues cfg.secrets);

  # File systems that are there before any unit, and before users are made.
  early = [
    "/"
    "/nix"
    "/nix/store"
    "/var"
    "/var/log"
    "/var/lib"
    "/var/lib/nixos"
    "/etc"
    "/usr"
  ];
  # The file system that a path lies on: the longest mount point above it.
  under = path: at: at == "/" || path == at || lib.hasPrefix "${at}/" path;
  holds =
    path:
    lib.last (
      lib.sort (a: b: lib.stringLength a.mountPoint < lib.stringLength b.mountPoint) (
        [ { mountPoint = "/"; neededForBoot = true; } ]
        ++ lib.filter (fs: under path fs.mountPoint) (lib.attrValues config.fileSystems)
      )
    );
  isLate =
    path:
    let
      fs = holds path;
    in
    !(fs.neededForBoot || lib.elem fs.mountPoint early);
  needed = [ "/nix/var/trueup" ] ++ cfg.secretsIdentityFiles;

  secret =
    { name, config, ... }:
    {
      options = {
        neededForUsers = mkOption {
          type = types.bool;
          default = false;
          example = true;
          description = ''
            Whether users need it when they are made, as `hashedPasswordFile` does. Its `Secret` says so too, and the Host
            `spec.secrets.module: true`.
          '';
        };
        path = mkOption {
          type = types.str;
          default =
            if config.neededForUsers then "/run/trueup/secrets-for-users/${name}" else "/run/trueup/secrets/${name}";
          defaultText = literalExpression ''"/run/trueup/secrets/‹name›", or below secrets-for-users'';
          example = "/var/lib/app/token";
          description = "Where it is; another path than the default is the `path` of its `Secret`.";
        };
      };
    };

  unit = verbs: {
    documentation = [ "https://github.com/trueup/trueup" ];
    unitConfig = {
      DefaultDependencies = false;
      ConditionFileIsExecutable = brought;
      ConditionPathExists = [
        kept
        "!${marker}"
      ];
      # A key on a file system that is mounted late is waited for.
      RequiresMountsFor = lib.concatStringsSep " " needed;
    };
    restartIfChanged = false;
    stopIfChanged = false;
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
      ExecStart = "${brought} secrets restore${verbs}";
      TimeoutStartSec = "2min";
    };
  };
in
{
  options.services.trueup.agent.secrets = mkOption {
    type = types.attrsOf (types.submodule secret);
    default = { };
    example = literalExpression ''{ api-token = { }; }'';
    description = ''
      Secrets of the fleet that this configuration uses, by the names of their `Secret`s. Their paths are
      `config.trueup.secrets.<name>.path`.
    '';
  };

  options.services.trueup.agent.secretsIdentityFiles = mkOption {
    type = types.listOf types.path;
    default = map (k: k.path) (
      lib.filter (k: k.type == "ed25519" || k.type == "rsa") config.services.openssh.hostKeys
    );
    defaultText = literalExpression "the ed25519 and RSA keys of services.openssh.hostKeys";
    example = [ "/persist/etc/ssh/ssh_host_ed25519_key" ];
    description = ''
      Private keys that open this host's secrets: what `spec.secrets.identityFiles` of its Host says, where that says
      something. The units that bring secrets back wait for the file systems that these lie on.
    '';
  };

  options.trueup.secrets = mkOption {
    type = types.attrsOf (types.attrsOf types.str);
    readOnly = true;
    default = lib.mapAttrs (_: s: { inherit (s) path; }) cfg.secrets;
    defaultText = literalExpression "the paths of services.trueup.agent.secrets";
    example = literalExpression "config.trueup.secrets.api-token.path";
    description = "Where the secrets of `services.trueup.agent.secrets` are on this host.";
  };

  config = mkIf (cfg.enable && cfg.secrets != { }) {
    assertions = [
      {
        assertion = !forUsers || lib.all (path: !isLate path) needed;
        message =
          "services.trueup.agent.secrets: users need secrets before any file system is mounted that is not `neededForBoot`, and "
          + "${lib.concatStringsSep ", " (lib.filter isLate needed)} lies on one: set "
          + lib.concatMapStringsSep ", " (path: "fileSystems.\"${(holds path).mountPoint}\".neededForBoot = true") (
            lib.filter isLate needed
          );
      }
    ];

    systemd.tmpfiles.rules = [
      "d /run/trueup 0755 root root -"
      "f ${marker} 0644 root root -"
    ];

    systemd.services.trueup-secrets = lib.mkMerge [
      (unit "")
      {
        description = "trueup: brings the secrets back that were committed before the boot";
        wantedBy = [ "sysinit.target" ];
        before = [
          "sysinit.target"
          "systemd-tmpfiles-setup.service"
        ];
        after = [ "local-fs.target" ] ++ makers;
      }
    ];

    # Users are made by units, or by a snippet before any unit.
    systemd.services.trueup-secrets-for-users = mkIf (forUsers && byUnits) (
      lib.mkMerge [
        (unit " --for-users")
        {
          description = "trueup: brings back the secrets that users need";
          wantedBy = [ "sysinit.target" ];
          # Not behind local-fs.target: users are made before the folders that file systems are mounted on (`/dev` is set up
          # by their names), so that would be a circle, and systemd would leave one of the units out. The file systems that
          # are needed here are there since the initrd, as an assertion says.
          before = makers ++ [ "systemd-tmpfiles-setup.service" ];
        }
      ]
    );
    # Secrets of users whom the same activation makes are root's until then; units that read them come later.
    systemd.services.trueup-secrets-own = mkIf byUnits {
      description = "trueup: gives secrets to users that were made just now";
      documentation = [ "https://github.com/trueup/trueup" ];
      unitConfig = {
        DefaultDependencies = false;
        ConditionFileIsExecutable = brought;
        ConditionPathExists = "/run/trueup/secrets";
      };
      requiredBy = [ "sysinit-reactivation.target" ];
      before = [ "sysinit-reactivation.target" ];
      after = makers;
      serviceConfig = {
        Type = "oneshot";
        # An owner that nobody makes is the attempt's to tell, with its name.
        ExecStart = "-${brought} secrets own";
        TimeoutStartSec = "2min";
      };
    };
    system.activationScripts = mkIf (!byUnits) {
      trueupSecretsOwn = {
        deps = [
          "users"
          "groups"
        ];
        text = ''
          if [ -x ${brought} ] && [ -e /run/trueup/secrets ]; then
            ${brought} secrets own || true
          fi
        '';
      };
      users = mkIf forUsers { deps = [ "trueupSecretsForUsers" ]; };
      trueupSecretsForUsers = mkIf forUsers {
        deps = [ "specialfs" ];
        # At boot only: in an activation the link is there, and what it leads to is newer than what was kept.
        text = ''
          if [ -x ${brought} ] && [ -e ${kept} ] && [ ! -e /run/trueup/secrets ]; then
            ${brought} secrets restore --for-users || echo "trueup: the secrets for users are not there" >&2
          fi
        '';
      };
    };
  };
}
