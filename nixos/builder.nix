# `services.trueup.builder`: a machine that takes derivations from the hub. A login that can speak Nix' store protocol
# and nothing else.
{
  config,
  lib,
  ...
}:
let
  inherit (lib)
    mkEnableOption
    mkIf
    mkOption
    literalExpression
    types
    ;
  ours = import ./lib.nix { inherit lib; };
  cfg = config.services.trueup.builder;
in
{
  options.services.trueup.builder = {
    enable = mkEnableOption "builds on this machine for a trueup hub";

    user = mkOption {
      # Its keys are bound to Nix' protocol; root's would be, and with them root's login.
      type = types.addCheck (types.strMatching "[a-z_][a-z0-9_-]{0,31}") (u: u != "root") // {
        description = "name of a user other than root";
      };
      default = "trueup-builder";
      example = "nixremote";
      description = ''
        The user that the hub logs in as. It is made, and is one of Nix' trusted users: a builder must take inputs that
        nobody signed. Whoever has its key can put anything into this machine's store.
      '';
    };

    authorizedKeys = mkOption {
      type = types.listOf ours.publicKey;
      default = [ ];
      example = [ "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS root@hub" ];
      description = "The hub's public keys. They can run `nix-daemon --stdio` only, which is `ssh-ng://`.";
    };

    maxJobs = mkOption {
      type = types.either types.ints.unsigned (types.enum [ "auto" ]);
      default = "auto";
      example = 4;
      description = "Builds at the same time; `auto` is one for each core.";
    };

    cores = mkOption {
      type = types.ints.unsigned;
      default = 0;
      example = 8;
      description = "Cores that one build may use; 0 is all.";
    };

    supportedFeatures = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [
        "kvm"
        "big-parallel"
      ];
      description = ''
        What builds here may ask for, added to `nix.settings.system-features`. Empty leaves Nix' own choice, which finds
        `kvm` by itself.
      '';
    };

    emulatedSystems = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "aarch64-linux" ];
      description = "Systems that this machine also builds for, by emulation.";
    };

    minFree = mkOption {
      type = types.nullOr types.ints.positive;
      default = 10 * 1024 * 1024 * 1024;
      defaultText = literalExpression "10 GiB, in bytes";
      example = literalExpression "50 * 1024 * 1024 * 1024";
      description = ''
        Below so many free bytes garbage is collected during a build, up to three times as many; `null` leaves that to you.
      '';
    };
  };

  config = mkIf cfg.enable {
    assertions = [
      {
        assertion = config.services.openssh.enable;
        message = "services.trueup.builder: the hub comes over SSH; set services.openssh.enable = true.";
      }
      {
        assertion = cfg.authorizedKeys != [ ];
        message = "services.trueup.builder.authorizedKeys is empty: add the hub's public key, else nobody can build here.";
      }
    ];

    users.users.${cfg.user} = {
      isSystemUser = true;
      group = cfg.user;
      useDefaultShell = true;
      home = "/var/empty";
      description = "A trueup hub builds here";
      openssh.authorizedKeys.keys = map (
        key: ''restrict,command="${config.nix.package}/bin/nix-daemon --stdio" ${key}''
      ) cfg.authorizedKeys;
    };
    users.groups.${cfg.user} = { };

    boot.binfmt.emulatedSystems = cfg.emulatedSystems;

    nix.settings = lib.mkMerge [
      {
        # Said with root: a definition takes the place of the default.
        trusted-users = [
          "root"
          cfg.user
        ];
        max-jobs = cfg.maxJobs;
        cores = cfg.cores;
      }
      (mkIf (cfg.supportedFeatures != [ ]) { system-features = cfg.supportedFeatures; })
      (mkIf (cfg.minFree != null) {
        min-free = cfg.minFree;
        max-free = 3 * cfg.minFree;
      })
    ];
  };
}
