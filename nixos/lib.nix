# Types that several modules use. Values only: sets no option.
{ lib }:
let
  inherit (lib) types;
in
rec {
  # A file on the machine that holds a secret. A path literal (`./key`) would copy it into the world-readable store,
  # so only text is taken, and no text that lies in the store.
  secretFile =
    types.addCheck types.str (p: lib.hasPrefix "/" p && !(lib.hasPrefix builtins.storeDir p))
    // {
      name = "secretFile";
      description = "absolute path outside the Nix store, as a string";
      descriptionClass = "noun";
    };

  # As trueup's own files write them: whole seconds, minutes or hours.
  duration = types.strMatching "[0-9]{1,9}[smh]" // {
    description = "length of time such as 90s, 5m or 2h";
  };

  # One line of authorized_keys without options in front: options are the module's to set.
  publicKey = types.strMatching "(sk-)?(ssh|ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+( .*)?" // {
    description = "SSH public key, `TYPE BASE64 [COMMENT]`";
  };

  # `NAME:BASE64`, as `nix key convert-secret-to-public` prints it.
  storeKey = types.strMatching "[A-Za-z0-9._-]+:[A-Za-z0-9+/]{43}=" // {
    description = "public key for store paths, `NAME:BASE64`";
  };

  # An Ed25519 public key as a controller signs intents with: 32 bytes.
  controllerKey = types.strMatching "[A-Za-z0-9+/]{43}=" // {
    description = "Ed25519 public key, 32 bytes in base 64";
  };

  # May this user speak to the Nix daemon? An entry is a name, a `@group` or `*`.
  mayUseNix =
    config: user:
    let
      allowed = config.nix.settings.allowed-users or [ "*" ];
      trusted = config.nix.settings.trusted-users or [ ];
      groups = [
        (config.users.users.${user}.group or "")
      ]
      ++ (config.users.users.${user}.extraGroups or [ ]);
      named = list: lib.elem "*" list || lib.elem user list || lib.any (g: lib.elem "@${g}" list) groups;
    in
    user == "root" || named allowed || named trusted;
}
