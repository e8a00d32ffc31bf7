# `nix run .#demo`: the demo of the checkout it is called in. It needs root (or sudo) and a Debian's apt for the lab's
# root file system, which a Nix store can't give; it says so where they are missing.
{
  writeShellApplication,
  cargo,
  rustc,
  stdenv,
  pkg-config,
  openssl,
  glibc,
}:
writeShellApplication {
  name = "trueup-demo";
  runtimeInputs = [
    cargo
    rustc
    stdenv.cc
    pkg-config
  ];
  text = ''
    if ! grep -qs '^name = "xtask"' xtask/Cargo.toml; then
      echo "not in a checkout of trueup: git clone it, and run this in its folder" >&2
      exit 2
    fi
    if ! command -v apt-get > /dev/null; then
      echo "the demo's hosts are made from Debian's packages, and there is no apt-get here" >&2
      exit 2
    fi
    export PKG_CONFIG_PATH=${openssl.dev}/lib/pkgconfig
    # The agent is static, and the compiler's own C library is not.
    export LIBRARY_PATH=${glibc.static}/lib''${LIBRARY_PATH:+:$LIBRARY_PATH}
    exec cargo xtask demo "$@"
  '';
}
