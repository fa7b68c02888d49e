"""``python -m llamacpp_prism``."""

from llamacpp_prism.server import main

if __name__ == "__main__":
    main()
