"""`python -m iterppo` is the command `iterppo`; launchers such as torchrun start it this way."""

from iterppo.cli import main

if __name__ == "__main__":
    main()
