# `services.trueup.agent`: what a host needs to be deployed to. No daemon: the controller copies the agent to the host
# and calls it over SSH. Here are the login, the trust, and the unit that closes the record after a power cut.
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
    mkMerge
    mkOption
    literalExpression
    optional
    types
    ;
  ours = import ./lib.nix { inherit lib; };
  cfg = config.services.trueup.agent;
  isRoot = cfg.user == "root";
  trusts =
    lib.any (k: !(lib.hasPrefix "cache.nixos.org-1:" k)) config.nix.settings.trusted-public-keys
    || !(config.nix.settings.require-sigs or true);
  own = "${if cfg.package == null then "" else cfg.package}/bin/trueup-agent";
  # The copy that the controller brought: it wrote the journal, so it is the one that can read it. Behind a forced command
  # none is brought: this configuration's is the one that runs.
  agent = if cfg.forcedCommand then own else "/nix/var/nix/gcroots/trueup/agent/bin/trueup-agent";
  options =
    if cfg.forcedCommand then
      ''restrict,command="${own} ssh-command"''
    else
      "no-agent-forwarding,no-port-forwarding,no-pty,no-user-rc,no-X11-forwarding";
  # A forced command lets the login become root for one program; without, all of it, since what is activated is root's in
  # any case: a rule for some programs would only look safer.
  sudo = if cfg.forcedCommand then own else "ALL";
in
{
  imports = [ ./secrets.nix ];

  options.services.trueup.agent = {
    enable = mkEnableOption "deployment of this host by a trueup controller over SSH";

    package = mkOption {
      type = types.nullOr types.package;
      default = pkgs.trueup-agent or null;
      defaultText = literalExpression "pkgs.trueup-agent";
      example = literalExpression "inputs.trueup.packages.\${pkgs.system}.trueup-agent";
      description = ''
        The agent that people on this host get in their path, for `trueup-agent hold`. Deployments use the one that
        the controller brings. `null` means none.
      '';
    };

    user = mkOption {
      type = types.strMatching "[a-z_][a-z0-9_-]{0,31}";
      default = "root";
      example = "trueup-deploy";
      description = ''
        The user that the controller logs in as; the manifest's `ssh.user`. One other than root is made, may use sudo
        without a password, and needs `ssh.become: true` in the manifest. That keeps root's login closed and leaves
        traces of sudo; it does not take root from whoever has the key, since what is activated is root's.
      '';
    };

    authorizedKeys = mkOption {
      type = types.listOf ours.publicKey;
      default = [ ];
      example = [ "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS trueup@hub" ];
      description = "The controller's public keys: they may log in as `user`, without forwarding or a terminal.";
    };

    forcedCommand = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether the controller's keys run one program, `trueup-agent ssh-command`, whatever is asked for: the agent's verbs
        that the controller uses, and Nix's store protocol. Everything else is refused by name and logged: shells, `scp`,
        other programs, forwarding. The agent is then `package`, from this configuration, and none is brought by the
        controller; a login other than root may become root for it alone. docs/SECURITY.md says what this does not prevent.
        Set `controllerKeys` too: then whoever has only the SSH key can't make intents.
      '';
    };

    witnesses = mkOption {
      type = types.listOf ours.publicKey;
      default = [ ];
      example = [ "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS root@web-1" ];
      description = ''
        SSH host keys of the hosts that may confirm this one as its witness: `activation.witness` in its manifest, for the
        controller's own host. Such a key may ask where an attempt stands and hand in a signature, and nothing else. The
        agent that answers is `package`.
      '';
    };

    controllerKeys = mkOption {
      type = types.listOf ours.controllerKey;
      default = [ ];
      example = [ "Y8pJRPLPUfAdF4VW8Pmh1WwAsCAlE1qsfhNGk148CdI=" ];
      description = ''
        Keys whose intents this host believes, in `/etc/trueup/controller.pub`. Empty: the key that comes along at the
        first contact is pinned, in `/nix/var/trueup/keys/controller.pub`. At most 16 are read.
      '';
    };

    trustedPublicKeys = mkOption {
      type = types.listOf ours.storeKey;
      default = [ ];
      example = [ "trueup-1:Y8pJRPLPUfAdF4VW8Pmh1WwAsCAlE1qsfhNGk148CdI=" ];
      description = ''
        Keys whose store paths this host takes, added to `nix.settings.trusted-public-keys`. The fleet's own key must
        be among them: the half that `nix key convert-secret-to-public` prints for the controller's `store.key`.
      '';
    };

    substituters = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "http://cache.example.org:5000" ];
      description = ''
        Binary caches that this host asks before the controller copies, added to `nix.settings.substituters`.
      '';
    };

    resume = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        Whether the record of an activation that a power cut ended is closed at boot. Without it, the controller's next
        contact does so. Nothing is activated by it: what booted is what runs.
      '';
    };
  };

  config = mkIf cfg.enable (mkMerge [
    {
      assertions = [
        {
          assertion = config.services.openssh.enable;
          message = "services.trueup.agent: the controller comes over SSH; set services.openssh.enable = true.";
        }
        {
          assertion = cfg.authorizedKeys != [ ];
          message = "services.trueup.agent.authorizedKeys is empty: add the controller's public key, else nobody can log in to deploy.";
        }
        {
          assertion = isRoot -> config.services.openssh.settings.PermitRootLogin or "prohibit-password" != "no";
          message = "services.trueup.agent.user is root, and services.openssh.settings.PermitRootLogin is no: allow `prohibit-password`, or set another user (and `ssh.become: true` in the manifest).";
        }
        {
          assertion = ours.mayUseNix config cfg.user;
          message = "services.trueup.agent: nix.settings.allowed-users must have `${cfg.user}` (or `*`), else closures can't be copied here.";
        }
        {
          # Also root's copies are checked: `nix copy` asks for signatures whoever brings the paths.
          assertion = trusts;
          message = "services.trueup.agent.trustedPublicKeys is empty: this host takes only paths that a key signed which it trusts; add the fleet's.";
        }
        {
          assertion = !isRoot -> config.security.sudo.enable || (config.security.sudo-rs.enable or false);
          message = "services.trueup.agent.user is not root, and there is no sudo to become root with.";
        }
        {
          assertion = cfg.forcedCommand -> cfg.package != null;
          message = "services.trueup.agent.package is null: forcedCommand needs the agent that the login is to run.";
        }
        {
          assertion = cfg.witnesses != [ ] -> cfg.package != null;
          message = "services.trueup.agent.package is null: a witness needs the agent that its login is to run.";
        }
        {
          assertion = lib.length cfg.controllerKeys <= 16;
          message = "services.trueup.agent.controllerKeys: the agent reads 16 keys at most.";
        }
      ];

      warnings =
        optional (config.system.autoUpgrade.enable or false)
          "system.autoUpgrade and trueup both deploy this host: one undoes what the other did. Turn one of them off."
        ++ optional (config.services.comin.enable or false) "comin and trueup both deploy this host: one undoes what the other did. Turn one of them off."
        ++
          optional (config.boot.isContainer or false)
            "services.trueup.agent in a container: there is no boot loader, so `test` itself already moves what boots next. A power cut during an activation boots the new configuration.";

      users.users.${cfg.user} = {
        openssh.authorizedKeys.keys =
          map (key: "${options} ${key}") cfg.authorizedKeys
          ++ map (key: ''restrict,command="${own} ssh-witness" ${key}'') cfg.witnesses;
      };

      nix.settings = {
        trusted-public-keys = cfg.trustedPublicKeys;
        substituters = cfg.substituters;
      };

      environment.systemPackages = optional (cfg.package != null) cfg.package;
      environment.etc = mkIf (cfg.controllerKeys != [ ]) {
        "trueup/controller.pub".text = lib.concatLines cfg.controllerKeys;
      };
    }

    (mkIf (!isRoot) {
      users.users.${cfg.user} = {
        isSystemUser = true;
        group = cfg.user;
        # sshd runs what the controller asks for by the login shell.
        useDefaultShell = true;
        home = "/var/empty";
        description = "trueup logs in here";
      };
      users.groups.${cfg.user} = { };
      security.sudo.extraRules = mkIf config.security.sudo.enable [
        {
          users = [ cfg.user ];
          commands = [
            {
              command = sudo;
              options = [ "NOPASSWD" ];
            }
          ];
        }
      ];
      security.sudo-rs.extraRules = mkIf (config.security.sudo-rs.enable or false) [
        {
          users = [ cfg.user ];
          commands = [
            {
              command = sudo;
              options = [ "NOPASSWD" ];
            }
          ];
        }
      ];
    })

    (mkIf cfg.resume {
      systemd.services.trueup-resume = {
        description = "trueup: closes the record of an activation that a reboot cut short";
        documentation = [ "https://github.com/trueup/trueup" ];
        wantedBy = [ "multi-user.target" ];
        # It reads what would boot next; all of /boot must be there.
        after = [ "local-fs.target" ];
        unitConfig = {
          ConditionFileIsExecutable = agent;
          ConditionDirectoryNotEmpty = "/nix/var/trueup/journal";
          RequiresMountsFor = "/nix/var/trueup /boot";
        };
        # It is about the boot. An activation must neither run it nor wait for it.
        restartIfChanged = false;
        stopIfChanged = false;
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          ExecStart = "${agent} resume";
          TimeoutStartSec = "2min";
        };
      };
    })
  ]);
}
