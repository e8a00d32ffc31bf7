# Evaluates the modules with NixOS' own, for tests/edges/nixos.rs. With a whole nixpkgs the packages are real; with a
# tree that has only lib/ and nixos/, packages are names and nothing can be built, but options, assertions and units
# are NixOS' own all the same.
{
  nixpkgs,
  system ? "x86_64-linux",
  # A NixOS module: what a person would write.
  module ? { },
  # Modules of others beside ours.
  others ? [ ],
}:
let
  lib = import (nixpkgs + "/lib");
  whole = builtins.pathExists (nixpkgs + "/pkgs/top-level/default.nix");

  # A package by name only. Store paths need a hash of 32 characters: this one is nobody's.
  named =
    name:
    let
      self = {
        type = "derivation";
        inherit name system;
        pname = name;
        version = "0";
        outputs = [ "out" ];
        outputName = "out";
        outPath = "${builtins.storeDir}/00000000000000000000000000000000-${name}";
        drvPath = "${self.outPath}.drv";
        out = self;
        bin = self;
        lib = self;
        dev = self;
        man = self;
        meta.mainProgram = name;
        passthru = { };
        override = _: self;
        overrideAttrs = _: self;
        shellPath = "/bin/${name}";
      };
    in
    self;
  written = name: text: named name // { inherit text; };
  platform = lib.systems.elaborate { inherit system; };
  stub =
    lib.genAttrs (lib.splitString "\n" (lib.fileContents ./eval-names.txt)) named
    // {
      inherit lib system;
      trueup = named "trueup";
      trueup-agent = named "trueup-agent";
      stdenv = {
        hostPlatform = platform;
        buildPlatform = platform;
        targetPlatform = platform;
        inherit (platform) isLinux isx86_64 isAarch64;
        cc = named "cc" // {
          bintools.dynamicLinker = "/lib/ld.so";
        };
      };
      writeText = written;
      writeTextFile = a: written a.name a.text;
      writeScript = written;
      writeScriptBin = written;
      writeShellScript = written;
      writeShellScriptBin = written;
      writeShellApplication = a: written a.name a.text;
      runCommand = name: _: text: written name text;
      runCommandLocal = name: _: text: written name text;
      symlinkJoin = a: named a.name;
      buildEnv = a: named a.name;
      buildPackages = stub;
      pkgsBuildBuild = stub;
      pkgsi686Linux = stub;
      pkgsStatic = stub;
      # Functions of others' modules are called; packages of nixpkgs are names.
      callPackage =
        f: args:
        if builtins.isPath f && !(lib.hasPrefix (toString nixpkgs) (toString f)) then
          lib.callPackageWith stub f args
        else
          named "called";
      path = nixpkgs;
      config = { };
      overlays = [ ];
      appendOverlays = _: stub;
      extend = _: stub;
      formats = lib.genAttrs [ "json" "yaml" "toml" "ini" "keyValue" "systemd" "libconfig" "php" "javaProperties" "elixirConf" "lua" "xml" "pythonVars" "hocon" "gvariant" "plist" "iniWithGlobalSection" "gitIni" "dconf" ] (
        f: _: {
          type = lib.types.attrs;
          generate = name: value: written name (builtins.toJSON value);
        }
      );
      linuxPackages = stub;
      linuxPackagesFor = _: stub;
      kernel = named "kernel" // {
        config = lib.genAttrs [ "isYes" "isEnabled" "isSet" ] (_: _: true);
        features = { };
      };
      systemd = named "systemd" // {
        withTpm2Units = false;
        withBootloader = true;
        withTimesyncd = true;
        withLogind = true;
        interfaceVersion = 2;
      };
      nix = named "nix" // {
        version = "2.28.3";
      };
      nixVersions = {
        stable = stub.nix;
        latest = stub.nix;
      };
    };

  evaluated = import (nixpkgs + "/nixos/lib/eval-config.nix") {
    inherit lib;
    system = null;
    specialArgs = lib.optionalAttrs (!whole) { pkgs = stub; };
    modules = [
      ../default.nix
      {
        config = {
          fileSystems."/" = {
            device = "/dev/disk/by-label/nixos";
            fsType = "ext4";
          };
          nixpkgs.hostPlatform = system;
          boot.loader.systemd-boot.enable = true;
          system.stateVersion = lib.trivial.release;
          networking.hostName = "web-1";
        };
      }
      (
        if whole then
          {
            nixpkgs.overlays = [
              (_: _: {
                trueup = named "trueup";
                trueup-agent = named "trueup-agent";
              })
            ];
          }
        else
          {
            # What would only add to the names above.
            environment.stub-ld.enable = false;
            documentation.enable = false;
          }
      )
      module
    ]
    # A part of nixpkgs that a tree may lack, and that agenix asks about.
    ++ lib.optional (!builtins.pathExists (nixpkgs + "/nixos/modules/services/system/userborn.nix")) {
      options.services.userborn.enable = lib.mkEnableOption "userborn";
    }
    ++ others;
  };
  inherit (evaluated) config options;

  textOf = v: if lib.isString v then v else v.text or (toString v);
  # An option without its module's words: what a reader of the manual would get.
  described = map (o: {
    inherit (o) name;
    type = o.type or "";
    hasDefault = o ? default;
    hasExample = o ? example;
    description = textOf (o.description or "");
    readOnly = o.readOnly or false;
  }) (lib.filter (o: !(o.internal or false)) (
    lib.optionAttrSetToDocList options.services.trueup ++ lib.optionAttrSetToDocList options.trueup
  ));

  ours = m: lib.hasInfix "services.trueup" m || lib.hasInfix "trueup" m;
  service = s: {
    inherit (s) wantedBy after before;
    wants = s.wants;
    restartIfChanged = s.restartIfChanged;
    serviceConfig = lib.mapAttrs (_: v: if lib.isList v then map toString v else v) s.serviceConfig;
    unitConfig = lib.mapAttrs (_: v: if lib.isList v then map toString v else v) s.unitConfig;
    environment = lib.filterAttrs (n: v: v != null && n != "PATH") s.environment;
    path = map toString s.path;
  };
in
{
  inherit whole;
  options = described;
  # Of all modules only ours: a system's own assertions are about machines that are not here.
  failed = map (a: a.message) (lib.filter (a: !a.assertion && ours a.message) config.assertions);
  warnings = lib.filter ours config.warnings;
  services = lib.mapAttrs (_: service) (
    lib.filterAttrs (n: _: lib.hasPrefix "trueup" n) config.systemd.services
  );
  # Units that make users, where this configuration has any and the tree knows them.
  makers = lib.mapAttrs (_: s: { inherit (s) before after; }) (
    lib.filterAttrs (n: _: n == "userborn" || n == "systemd-sysusers") config.systemd.services
  );
  etc = lib.mapAttrs (_: e: { text = if e.text == null then textOf e.source else e.text; }) (
    lib.filterAttrs (n: _: lib.hasPrefix "trueup/" n) config.environment.etc
  );
  tmpfiles = lib.filter (lib.hasInfix "trueup") config.systemd.tmpfiles.rules;
  users = lib.mapAttrs (_: u: {
    inherit (u) group isSystemUser;
    keys = u.openssh.authorizedKeys.keys;
  }) (lib.filterAttrs (n: _: lib.hasPrefix "trueup" n || n == "root") config.users.users);
  secrets = config.trueup.secrets;
  # What others do for secrets, as far as ours could touch it.
  sops = lib.optionalAttrs (config ? sops) {
    paths = lib.mapAttrs (_: s: s.path) config.sops.secrets;
    snippets = lib.mapAttrs (_: s: { inherit (s) deps text; }) (
      lib.filterAttrs (n: _: lib.hasPrefix "setupSecrets" n) config.system.activationScripts
    );
  };
  agenix = lib.optionalAttrs (config ? age) {
    paths = lib.mapAttrs (_: s: s.path) config.age.secrets;
    snippets = lib.mapAttrs (_: s: { inherit (s) deps text; }) (
      lib.filterAttrs (n: _: lib.hasPrefix "agenix" n) config.system.activationScripts
    );
  };
  afterUsers = config.system.activationScripts.trueupSecretsOwn.deps or [ ];
  # Which snippets are before users are made.
  beforeUsers = config.system.activationScripts.users.deps or [ ];
  groups = lib.mapAttrs (_: g: g.members) (lib.filterAttrs (n: _: lib.hasPrefix "trueup" n) config.users.groups);
  sudo = map (r: { inherit (r) users commands; }) (
    lib.filter (r: lib.any (lib.hasPrefix "trueup") r.users) config.security.sudo.extraRules
  );
  nix = {
    inherit (config.nix.settings)
      trusted-public-keys
      substituters
      trusted-users
      max-jobs
      ;
  };
  served = {
    nix-serve = lib.optionalAttrs config.services.nix-serve.enable {
      inherit (config.services.nix-serve) bindAddress port secretKeyFile;
    };
  };
  firewall = config.networking.firewall.allowedTCPPorts;
}
