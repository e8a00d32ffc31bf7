# What both packages are built from: the workspace without documents, modules and build output, so that a change of
# those builds nothing anew.
{ lib }:
let
  root = ../..;
in
{
  inherit (lib.importTOML (root + "/Cargo.toml")) workspace;
  inherit ((lib.importTOML (root + "/Cargo.toml")).workspace.package) version;
  src = lib.fileset.toSource {
    inherit root;
    fileset = lib.fileset.unions (
      map (p: root + "/${p}") [
        "Cargo.toml"
        "Cargo.lock"
        "clippy.toml"
        "agent"
        "controller"
        "fixtures"
        "schema"
        "tests"
        "xtask"
      ]
    );
  };
}
