# What people write, and which assertions of ours must stop them: `refused` has a piece of each message, in no order.
# Read by tests/edges/nixos.rs.
let
  key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS trueup@hub";
  hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS root@web-1";
  publicKey = "Y8pJRPLPUfAdF4VW8Pmh1WwAsCAlE1qsfhNGk148CdI=";
  controller = extra: {
    services.trueup.controller = {
      enable = true;
      repository.url = "https://git.example.org/fleet.git";
    }
    // extra;
  };
  agent = extra: {
    services.openssh.enable = true;
    services.trueup.agent = {
      enable = true;
      authorizedKeys = [ key ];
      trustedPublicKeys = [ "trueup-1:${publicKey}" ];
    }
    // extra;
  };
in
{
  nothing = {
    module = { };
    refused = [ ];
  };
  controller = {
    module = controller { };
    refused = [ ];
  };
  controllerWithKeys = {
    module = controller {
      repository = {
        url = "ssh://git@git.example.org/fleet.git";
        sshKeyFile = "/run/secrets/deploy-key";
        knownHosts = [ "git.example.org ${key}" ];
        interval = "5m";
      };
      ssh.keyFile = "/run/secrets/ssh-key";
      ssh.extraConfig = "Host db-1\n  ProxyJump bastion.example.org\n";
      signingKeyFile = "/run/secrets/store-key";
      nextSigningKeyFile = "/run/secrets/store-key-2";
      intentKeyFile = "/run/secrets/intent-key";
      credentials.chat = "/run/secrets/chat";
      operators = [ "ana" ];
      limits.builds = 4;
      limits.evaluationMemoryMiB = 8192;
      limits.buildSilence = "2h";
      settings.limits.evaluations = 3;
    };
    refused = [ ];
  };
  controllerWithoutKnownHosts = {
    module = controller { repository.url = "ssh://git@git.example.org/fleet.git"; };
    refused = [ "knownHosts is empty" ];
  };
  controllerWithMuchWrong = {
    module =
      controller {
        repository.url = "git://git.example.org/fleet";
        repository.tokenFile = "/run/secrets/token";
        repository.sshKeyFile = "/run/secrets/key";
        agentPackages = { };
      }
      // {
        nix.settings.allowed-users = [ "@wheel" ];
      };
    refused = [
      "use file:///…"
      "tokenFile is for https:// only"
      "sshKeyFile is for ssh:// only"
      "agentPackages is empty"
      "allowed-users must have `trueup`"
    ];
  };
  controllerOfAHiddenRepository = {
    module = controller { repository.url = "/home/ana/fleet"; };
    refused = [ "/home/ana/fleet is hidden" ];
  };
  agent = {
    module = agent { };
    refused = [ ];
  };
  agentOfAnotherUser = {
    module = agent {
      user = "trueup-deploy";
      controllerKeys = [ publicKey ];
      substituters = [ "http://cache.example.org:5000" ];
    };
    refused = [ ];
  };
  agentBehindAForcedCommand = {
    module = agent {
      user = "trueup-deploy";
      forcedCommand = true;
      controllerKeys = [ publicKey ];
      secrets.api-token = { };
    };
    refused = [ ];
  };
  agentWithAWitness = {
    module = agent { witnesses = [ hostKey ]; };
    refused = [ ];
  };
  agentWithAWitnessAndWithoutAnAgent = {
    module = agent {
      witnesses = [ hostKey ];
      package = null;
    };
    refused = [ "package is null" ];
  };
  agentBehindAForcedCommandWithoutAnAgent = {
    module = agent {
      forcedCommand = true;
      package = null;
      resume = false;
    };
    refused = [ "package is null" ];
  };
  agentWithSecrets = {
    module = agent {
      secrets.api-token = { };
      secrets.ana.neededForUsers = true;
    };
    refused = [ ];
  };
  # Users that units make.
  agentWithSecretsAndSysusers = {
    module =
      agent {
        secrets.api-token = { };
        secrets.ana.neededForUsers = true;
      }
      // {
        systemd.sysusers.enable = true;
      };
    refused = [ ];
  };
  agentWithSecretsAndUserborn = {
    module = {
      imports = [
        (agent {
          secrets.api-token = { };
          secrets.ana.neededForUsers = true;
        })
      ];
      services.userborn.enable = true;
    };
    refused = [ ];
  };
  # The key is on a file system of its own: what users need is too early for it, the rest waits.
  agentWithAKeyThatIsMountedLate = {
    module =
      agent {
        secrets.ana.neededForUsers = true;
        secretsIdentityFiles = [ "/persist/ssh/ssh_host_ed25519_key" ];
      }
      // {
        fileSystems."/persist" = {
          device = "/dev/disk/by-label/persist";
          fsType = "ext4";
        };
      };
    refused = [ "fileSystems.\"/persist\".neededForBoot = true" ];
  };
  agentWithAKeyThatIsMountedInTime = {
    module =
      agent {
        secrets.api-token = { };
        secretsIdentityFiles = [ "/persist/ssh/ssh_host_ed25519_key" ];
      }
      // {
        fileSystems."/persist" = {
          device = "/dev/disk/by-label/persist";
          fsType = "ext4";
        };
      };
    refused = [ ];
  };
  agentWithMuchWrong = {
    module = {
      services.trueup.agent = {
        enable = true;
        user = "trueup-deploy";
        controllerKeys = builtins.genList (_: publicKey) 17;
      };
      nix.settings.allowed-users = [ "ana" ];
      security.sudo.enable = false;
    };
    refused = [
      "services.trueup.agent: the controller comes over SSH"
      "services.trueup.agent.authorizedKeys is empty"
      "allowed-users must have `trueup-deploy`"
      "trustedPublicKeys is empty"
      "there is no sudo"
      "16 keys at most"
    ];
  };
  agentWithRootShut = {
    module = {
      imports = [ (agent { }) ];
      services.openssh.settings.PermitRootLogin = "no";
    };
    refused = [ "PermitRootLogin is no" ];
  };
  builder = {
    module = {
      services.openssh.enable = true;
      services.trueup.builder = {
        enable = true;
        authorizedKeys = [ key ];
        supportedFeatures = [ "kvm" ];
      };
    };
    refused = [ ];
  };
  builderThatNobodyReaches = {
    module.services.trueup.builder.enable = true;
    refused = [
      "services.trueup.builder: the hub comes over SSH"
      "services.trueup.builder.authorizedKeys is empty"
    ];
  };
  cache = {
    module.services.trueup.cache = {
      enable = true;
      server = "nix-serve-ng";
      signingKeyFile = "/run/secrets/cache-key";
      openFirewall = true;
    };
    refused = [ ];
  };
}
