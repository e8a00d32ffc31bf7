# All of `services.trueup`. Each is off until it is enabled.
{
  imports = [
    ./controller.nix
    ./agent.nix
    ./builder.nix
    ./cache.nix
  ];
}
