# What it takes to work on trueup. The lab's own needs (Debian's packages) are `cargo xtask lab`'s to fetch.
{
  mkShell,
  cargo,
  rustc,
  rustfmt,
  clippy,
  rust-analyzer,
  cargo-deny,
  cargo-nextest,
  pkg-config,
  openssl,
  zlib,
  nixfmt,
}:
mkShell {
  packages = [
    cargo
    rustc
    rustfmt
    clippy
    rust-analyzer
    cargo-deny
    cargo-nextest
    pkg-config
    openssl
    zlib
    nixfmt
  ];
}
