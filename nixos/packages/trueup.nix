# The controller and command line. Builds only this crate's workspace member; what is tested is `cargo xtask test`.
{
  lib,
  rustPlatform,
  installShellFiles,
  pkg-config,
  openssl,
  zlib,
  stdenv,
}:
let
  source = import ./source.nix { inherit lib; };
in
rustPlatform.buildRustPackage {
  pname = "trueup";
  inherit (source) version src;
  cargoLock.lockFile = ../../Cargo.lock;

  # libgit2, libssh2 and SQLite are built from their crates; TLS for libgit2 is the system's.
  nativeBuildInputs = [
    pkg-config
    installShellFiles
  ];
  buildInputs = [
    openssl
    zlib
  ];

  cargoBuildFlags = [ "--package=trueup" ];
  cargoTestFlags = [ "--package=trueup" "--lib" ];

  postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    installShellCompletion --cmd trueup \
      --bash <($out/bin/trueup completions bash) \
      --fish <($out/bin/trueup completions fish) \
      --zsh <($out/bin/trueup completions zsh)
    $out/bin/trueup man man1
    installManPage man1/*.1
  '';

  meta = {
    description = "GitOps for fleets of NixOS hosts";
    homepage = "https://github.com/trueup/trueup";
    license = lib.licenses.asl20;
    mainProgram = "trueup";
    platforms = lib.platforms.linux;
  };
}
