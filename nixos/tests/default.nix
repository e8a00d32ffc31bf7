# Tests on NixOS itself, in virtual machines: for builders with KVM and a whole nixpkgs. Not run by `cargo xtask test`.
{ self, pkgs }:
let
  run = file: pkgs.testers.runNixOSTest (import file { inherit self; });
in
{
  controller = run ./controller.nix;
  loop = run ./loop.nix;
}
