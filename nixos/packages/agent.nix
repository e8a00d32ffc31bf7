# The program on a host: one static file, so that it runs on whatever the host's last activation left.
# `cargo xtask agent` links glibc; here it is musl, by pkgsStatic. Neither loads a name service.
{
  lib,
  pkgsStatic,
}:
let
  source = import ./source.nix { inherit lib; };
in
pkgsStatic.rustPlatform.buildRustPackage {
  pname = "trueup-agent";
  inherit (source) version src;
  cargoLock.lockFile = ../../Cargo.lock;

  buildType = "agent";
  cargoBuildFlags = [
    "--package=trueup-agent"
    "--bin=trueup-agent"
  ];
  # Its tests are about units and journals of a host: `cargo xtask test` runs them in the lab.
  doCheck = false;

  # It travels to every host; one that refers to a store path would bring that along.
  allowedReferences = [ ];

  meta = {
    description = "The part of trueup that runs on a host";
    homepage = "https://github.com/trueup/trueup";
    license = lib.licenses.asl20;
    mainProgram = "trueup-agent";
    platforms = lib.platforms.linux;
  };
}
