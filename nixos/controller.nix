# `services.trueup.controller`: the one program that follows the trunk. Writes trueup.yaml, hands the keys over as
# systemd credentials, and runs `trueup run` as a user of its own that can do little else.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib)
    mkEnableOption
    mkIf
    mkOption
    literalExpression
    optional
    optionalAttrs
    types
    ;
  ours = import ./lib.nix { inherit lib; };
  cfg = config.services.trueup.controller;

  # Where the program itself looks by default; the service is tied to it by StateDirectory.
  stateDir = "/var/lib/trueup";
  unit = "trueup-controller";
  # Not in /run/trueup itself: on a hub that is a host too, its secrets are there, and they are root's. A link leads from
  # where the command line looks.
  runtimeDir = "trueup-controller";
  socket = "/run/${runtimeDir}/api.sock";
  user = "trueup";
  # systemd's place for a unit's credentials. `%d` would be the same, but trueup.yaml is not expanded by systemd.
  credential = name: "/run/credentials/${unit}.service/${name}";
  # Name of the credential to the file that it is made from.
  credentials = lib.filterAttrs (_: file: file != null) {
    "store.key" = cfg.signingKeyFile;
    "store.next.key" = cfg.nextSigningKeyFile;
    "intent.key" = cfg.intentKeyFile;
    "intent.next.key" = cfg.nextIntentKeyFile;
    "ssh.key" = cfg.ssh.keyFile;
    "git.token" = cfg.repository.tokenFile;
    "git.key" = cfg.repository.sshKeyFile;
  } // lib.mapAttrs' (name: lib.nameValuePair "extra.${name}") cfg.credentials;
  given = name: if credentials ? ${name} then credential name else null;

  # What is null is left out, so that the program's own default holds.
  compact = lib.filterAttrsRecursive (_: v: v != null && v != { });
  settings = compact (
    lib.recursiveUpdate {
      repository = {
        inherit (cfg.repository)
          url
          branch
          path
          interval
          ;
        credentials = {
          inherit (cfg.repository) username;
          tokenFile = given "git.token";
          sshKeyFile = given "git.key";
          knownHostsFile =
            if cfg.repository.knownHosts == [ ] then
              null
            else
              "${pkgs.writeText "trueup-git-known-hosts" (lib.concatLines cfg.repository.knownHosts)}";
        };
      };
      inherit stateDir;
      listen.socket = socket;
      hub.store = cfg.hub.store;
      signing = {
        keyFile = given "store.key";
        nextKeyFile = given "store.next.key";
        intentKeyFile = given "intent.key";
        nextIntentKeyFile = given "intent.next.key";
      };
      ssh = {
        identityFile = given "ssh.key";
        configFile =
          if cfg.ssh.extraConfig == "" then null else "${pkgs.writeText "trueup-ssh-config" cfg.ssh.extraConfig}";
      };
      # The program and not its store path: then it is added by its content, and needs no signature on the hosts.
      agent.packages = lib.mapAttrs (_: p: "${p}/bin/trueup-agent") cfg.agentPackages;
      nix.program = "${cfg.nixPackage}/bin/nix";
      limits = cfg.limits;
    } cfg.settings
  );
  # JSON is YAML, and needs no program to write it.
  file = pkgs.writeText "trueup.yaml" (builtins.toJSON settings);

  isSsh = lib.hasPrefix "ssh://" cfg.repository.url;
  isHttps = lib.hasPrefix "https://" cfg.repository.url;
  isLocal = lib.hasPrefix "file:///" cfg.repository.url || lib.hasPrefix "/" cfg.repository.url;
  localPath = lib.removePrefix "file://" cfg.repository.url;
in
{
  options.services.trueup.controller = {
    enable = mkEnableOption "the trueup controller, which brings the trunk of a repository to all hosts of a fleet";

    package = mkOption {
      type = types.package;
      default = pkgs.trueup;
      defaultText = literalExpression "pkgs.trueup";
      example = literalExpression "inputs.trueup.packages.\${pkgs.system}.trueup";
      description = "The package with the program `trueup`. Also put into the system's path.";
    };

    nixPackage = mkOption {
      type = types.package;
      default = config.nix.package;
      defaultText = literalExpression "config.nix.package";
      example = literalExpression "pkgs.nixVersions.latest";
      description = "The Nix that evaluates, builds and copies.";
    };

    repository = {
      url = mkOption {
        type = types.str;
        example = "ssh://git@git.example.org/fleet.git";
        description = ''
          The fleet's repository: `file:///…`, `ssh://…` or `https://…`. An absolute path stands for `file://`.
        '';
      };
      branch = mkOption {
        type = types.str;
        default = "main";
        example = "production";
        description = "The trunk: the one branch that is the truth.";
      };
      path = mkOption {
        type = types.str;
        default = "fleet";
        example = "deploy/fleet";
        description = "The folder of the manifests, inside the repository.";
      };
      interval = mkOption {
        type = ours.duration;
        default = "60s";
        example = "5m";
        description = ''
          How often the repository is asked, ± 10 %. From `5s` to `24h`. A local repository is also watched, and
          `trueup reconcile` asks at once.
        '';
      };
      username = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "deploy-bot";
        description = "The user for `https://`; `null` means `git`.";
      };
      tokenFile = mkOption {
        type = types.nullOr ours.secretFile;
        default = null;
        example = "/run/secrets/git-token";
        description = "A file with a token for `https://`. Given to the service as a systemd credential.";
      };
      sshKeyFile = mkOption {
        type = types.nullOr ours.secretFile;
        default = null;
        example = "/run/secrets/deploy-key";
        description = "The private key for `ssh://`. Given to the service as a systemd credential.";
      };
      knownHosts = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "git.example.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS" ];
        description = ''
          Host keys that the Git host may show over `ssh://`, as lines of a known_hosts file. Nothing is trusted on
          first use, so that `ssh://` needs at least one.
        '';
      };
    };

    ssh = {
      keyFile = mkOption {
        type = types.nullOr ours.secretFile;
        default = null;
        example = "/run/secrets/trueup-ssh-key";
        description = ''
          The private key for the hosts. Given to the service as a systemd credential. `null` means ssh's own choice,
          from the home folder of the service's user, `${stateDir}`.
        '';
      };
      extraConfig = mkOption {
        type = types.lines;
        default = "";
        example = ''
          Host db-1
            ProxyJump bastion.example.org
        '';
        description = ''
          An ssh_config that is included after the generated one: it adds and can't undo. Host keys come from the
          manifests only.
        '';
      };
    };

    signingKeyFile = mkOption {
      type = types.nullOr ours.secretFile;
      default = null;
      example = "/run/secrets/trueup-store-key";
      description = ''
        The key that signs store paths, as `nix key generate-secret` writes it. Given to the service as a systemd
        credential. `null` means that one is made at the first start, as `${stateDir}/keys/store.key`.
      '';
    };

    nextSigningKeyFile = mkOption {
      type = types.nullOr ours.secretFile;
      default = null;
      example = "/run/secrets/trueup-store-key-2";
      description = ''
        The key that comes after `signingKeyFile`: both sign. When `trueup keys status` says that every host has it, it
        becomes `signingKeyFile`.
      '';
    };

    intentKeyFile = mkOption {
      type = types.nullOr ours.secretFile;
      default = null;
      example = "/run/secrets/trueup-intent-key";
      description = ''
        The key that signs intents: 32 bytes in base 64. Given to the service as a systemd credential. `null` means that
        one is made at the first start, as `${stateDir}/keys/intent.key`.
      '';
    };

    nextIntentKeyFile = mkOption {
      type = types.nullOr ours.secretFile;
      default = null;
      example = "/run/secrets/trueup-intent-key-2";
      description = ''
        The key that comes after `intentKeyFile`: hosts are told to obey both. When `trueup keys status` says that every
        host does, it becomes `intentKeyFile`.
      '';
    };

    credentials = mkOption {
      type = types.attrsOf ours.secretFile;
      default = { };
      example = literalExpression ''{ chat = "/run/secrets/chat-webhook"; }'';
      description = ''
        Other secrets that the controller reads, such as the keys of Alerts, given to the service as systemd credentials.
        The file is then `/run/credentials/${unit}.service/extra.NAME`, as an Alert's `webhook.secretFile`.
      '';
    };

    hub.store = mkOption {
      type = types.str;
      default = "auto";
      example = "daemon";
      description = ''
        The store in which all builds begin, as Nix writes it. `auto` is this machine's. Another machine's is
        `ssh-ng://root@HOST?ssh-key=FILE&base64-ssh-public-host-key=KEY`, with its host key in base64 (or in
        `programs.ssh.knownHosts`) and a file that the service can read: of `ssh.keyFile` that is `/run/credentials/${unit}.service/ssh.key`.
      '';
    };

    agentPackages = mkOption {
      type = types.attrsOf types.package;
      default =
        if pkgs ? trueup-agent then
          { ${pkgs.stdenv.hostPlatform.system} = pkgs.trueup-agent; }
        else
          { };
      defaultText = literalExpression "{ \${pkgs.stdenv.hostPlatform.system} = pkgs.trueup-agent; }";
      example = literalExpression ''
        {
          x86_64-linux = inputs.trueup.packages.x86_64-linux.trueup-agent;
          aarch64-linux = inputs.trueup.packages.aarch64-linux.trueup-agent;
        }
      '';
      description = ''
        The static agent for each system that hosts have. The controller copies it to a host that lacks it.
      '';
    };

    limits = {
      evaluations = mkOption {
        type = types.nullOr (types.ints.between 1 64);
        default = null;
        example = 4;
        description = "Evaluations at the same time; `null` means 2.";
      };
      evaluationMemoryMiB = mkOption {
        type = types.nullOr (types.ints.between 256 1048576);
        default = null;
        example = 16384;
        description = "Memory that an evaluation's process may take, in MiB; `null` means 4096.";
      };
      evaluationTimeout = mkOption {
        type = types.nullOr ours.duration;
        default = null;
        example = "10m";
        description = "How long one evaluation may take; `null` means `30m`.";
      };
      buildSilence = mkOption {
        type = types.nullOr ours.duration;
        default = null;
        example = "2h";
        description = "A build that says nothing for this long is ended; `null` means `30m`.";
      };
      builds = mkOption {
        type = types.nullOr (types.ints.between 1 256);
        default = null;
        example = 16;
        description = "Builds that are asked of Nix at the same time; `null` means 8.";
      };
      releasedRoots = mkOption {
        type = types.nullOr ours.duration;
        default = null;
        example = "720h";
        description = ''
          How long a host that the trunk no longer has is remembered, and its closures kept in the hub's store; `null`
          means a week.
        '';
      };
    };

    operators = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "ana" ];
      description = ''
        Users who may use the controller's socket: they become members of the group `${user}`. An operator can nudge,
        suspend and adopt hosts; what runs is Git's to say.
      '';
    };

    log = mkOption {
      type = types.str;
      default = "info";
      example = "info,trueup_engine=debug";
      description = "What is logged, as a filter of `tracing`.";
    };

    settings = mkOption {
      type = types.attrs;
      default = { };
      example = literalExpression ''{ limits.builds = 4; }'';
      description = ''
        Laid over what the options above make of `trueup.yaml`, for keys that have no option here. A key that trueup
        does not know stops it at its start, with the nearest known name.
      '';
    };

    settingsFile = mkOption {
      type = types.path;
      readOnly = true;
      default = file;
      defaultText = literalExpression "the generated trueup.yaml";
      example = literalExpression "config.services.trueup.controller.settingsFile";
      description = "The generated `trueup.yaml`, also at `/etc/trueup/trueup.yaml`.";
    };
  };

  config = mkIf cfg.enable {
    assertions = [
      {
        assertion = isSsh || isHttps || isLocal;
        message = "services.trueup.controller.repository.url is `${cfg.repository.url}`: use file:///…, ssh://… or https://….";
      }
      {
        assertion = isSsh -> cfg.repository.knownHosts != [ ];
        message = ''
          services.trueup.controller.repository.knownHosts is empty, and nothing is trusted on first use: add the line of
          `ssh-keyscan` for the Git host, compared with what its administrator tells.'';
      }
      {
        assertion = cfg.repository.tokenFile != null -> isHttps;
        message = "services.trueup.controller.repository.tokenFile is for https:// only; ssh:// takes sshKeyFile.";
      }
      {
        assertion = cfg.repository.sshKeyFile != null -> isSsh;
        message = "services.trueup.controller.repository.sshKeyFile is for ssh:// only; https:// takes tokenFile.";
      }
      {
        assertion = isLocal -> !(lib.any (d: lib.hasPrefix d localPath) [ "/home/" "/root/" "/tmp/" "/var/tmp/" ]);
        message = "services.trueup.controller: ${localPath} is hidden from the service, as all of /home, /root and /tmp; keep the repository elsewhere, such as /srv.";
      }
      {
        assertion = cfg.agentPackages != { };
        message = "services.trueup.controller.agentPackages is empty: name the static agent for each system of your hosts.";
      }
      {
        assertion = ours.mayUseNix config user;
        message = "services.trueup.controller: nix.settings.allowed-users must have `${user}` (or `*`), else the controller can't build.";
      }
    ];

    users.users.${user} = {
      isSystemUser = true;
      group = user;
      home = stateDir;
      description = "The trueup controller";
    };
    users.groups.${user}.members = cfg.operators;

    environment.systemPackages = [ cfg.package ];
    # For `trueup doctor` and `trueup db` of an operator, who pass no --config.
    environment.etc."trueup/trueup.yaml".source = file;

    # Nix takes roots from here; the daemon is asked by others than root for indirect ones only.
    systemd.tmpfiles.rules = [
      "d /nix/var/nix/gcroots/trueup 0755 ${user} ${user} -"
      "d /run/trueup 0755 root root -"
      "L+ /run/trueup/api.sock - - - - ${socket}"
    ];

    systemd.services.${unit} = {
      description = "trueup: brings the trunk to the fleet";
      documentation = [ "https://github.com/trueup/trueup" ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [
        "network-online.target"
        "nix-daemon.socket"
      ];
      # ssh for the hosts; git for flake inputs that Nix fetches with it.
      path = [
        cfg.nixPackage
        config.programs.ssh.package
        pkgs.gitMinimal
      ];
      environment = {
        HOME = stateDir;
        NIX_REMOTE = "daemon";
        NIX_SSL_CERT_FILE = "/etc/ssl/certs/ca-certificates.crt";
        SSL_CERT_FILE = "/etc/ssl/certs/ca-certificates.crt";
        TRUEUP_LOG = cfg.log;
      };
      # A stop is a crash that was announced: all goes on from the database. So it may be restarted at any time, also
      # by an activation of its own.
      startLimitIntervalSec = 0;
      # What it may not is a file of its own, so that a lab host runs the controller behind the very same.
      serviceConfig = builtins.fromJSON (builtins.readFile ./controller-sandbox.json) // {
        Type = "exec";
        ExecStart = "${cfg.package}/bin/trueup run --config ${file}";
        User = user;
        Group = user;
        StateDirectory = "trueup";
        StateDirectoryMode = "0700";
        RuntimeDirectory = runtimeDir;
        # The socket is 0660; this decides who comes near it.
        RuntimeDirectoryMode = "0750";
        # The program would find those of its own names (store.key, ssh.key, git.key, git.token) by itself; trueup.yaml names
        # them all the same, so that `trueup doctor` of an operator says which is missing.
        LoadCredential = lib.mapAttrsToList (name: source: "${name}:${source}") credentials;
        Restart = "always";
        RestartSec = "2s";
        KillMode = "mixed";
        TimeoutStopSec = "20s";
        LimitNOFILE = 65536;
        # A Nix that eats all memory is an evaluation that failed, and no reason to end the controller.
        OOMPolicy = "continue";
        ReadWritePaths = [ "/nix/var/nix/gcroots/trueup" ];
      };
    };
  };
}
