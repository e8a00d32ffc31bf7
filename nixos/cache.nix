# `services.trueup.cache`: serves this machine's store to the hosts over HTTP, by harmonia or nix-serve-ng, whichever
# this nixpkgs has. A module over their modules: no server of our own.
{
  config,
  lib,
  options,
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
    types
    ;
  ours = import ./lib.nix { inherit lib; };
  cfg = config.services.trueup.cache;
  # harmonia's options moved below `.cache` when it grew a daemon of its own.
  hasNewHarmonia = (options.services.harmonia or { }) ? cache;
  hasHarmonia = hasNewHarmonia || (options.services.harmonia or { }) ? signKeyPaths;
  bind = if lib.hasInfix ":" cfg.address then "[${cfg.address}]" else cfg.address;
  harmonia = {
    enable = true;
    signKeyPaths = [ cfg.signingKeyFile ];
    settings = {
      bind = "${bind}:${toString cfg.port}";
      inherit (cfg) priority;
    };
  };
in
{
  options.services.trueup.cache = {
    enable = mkEnableOption "a binary cache of this machine's store for the hosts of a trueup fleet";

    server = mkOption {
      type = types.enum [
        "harmonia"
        "nix-serve-ng"
      ];
      default = if hasHarmonia then "harmonia" else "nix-serve-ng";
      defaultText = literalExpression ''"harmonia" where nixpkgs has its module, else "nix-serve-ng"'';
      example = "nix-serve-ng";
      description = "The program that serves.";
    };

    address = mkOption {
      type = types.str;
      default = "[::]";
      apply = a: lib.removeSuffix "]" (lib.removePrefix "[" a);
      example = "10.0.0.2";
      description = "The address that it listens on.";
    };

    port = mkOption {
      type = types.port;
      default = 5000;
      example = 8080;
      description = "The port that it listens on.";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether the firewall lets the port through. Whoever reads a cache reads every host's configuration: let only
        the hosts reach it.
      '';
    };

    signingKeyFile = mkOption {
      type = ours.secretFile;
      example = "/run/secrets/cache-key";
      description = ''
        The key that signs what is served, as `nix key generate-secret` writes it. Paths that the controller signed
        keep its signature, so it may be the fleet's own key or another; hosts must trust one of the two.
      '';
    };

    priority = mkOption {
      type = types.ints.unsigned;
      default = 30;
      example = 50;
      description = "The lower, the earlier this cache is asked; cache.nixos.org has 40. With harmonia only.";
    };
  };

  config = mkIf cfg.enable (mkMerge [
    {
      assertions = [
        {
          assertion = cfg.server == "harmonia" -> hasHarmonia;
          message = "services.trueup.cache.server is harmonia, and this nixpkgs has no module for it: use nix-serve-ng.";
        }
      ];
      networking.firewall.allowedTCPPorts = mkIf cfg.openFirewall [ cfg.port ];
    }
    (mkIf (cfg.server == "harmonia") (
      if hasNewHarmonia then
        { services.harmonia.cache = harmonia; }
      else if hasHarmonia then
        { services.harmonia = harmonia; }
      else
        { }
    ))
    (mkIf (cfg.server == "nix-serve-ng") {
      services.nix-serve = {
        enable = true;
        package = pkgs.nix-serve-ng;
        bindAddress = bind;
        inherit (cfg) port;
        secretKeyFile = cfg.signingKeyFile;
      };
    })
  ]);
}
