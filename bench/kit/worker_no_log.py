"""Run the product's worker without a prediction log: what a log costs is the difference. No setting does this."""

import sys

from flyball.node import worker


def main() -> int:
    from flyball.serving import gateway

    whole = gateway.Gateway.__init__

    def without(self, *args, **given):
        log = given.pop("log", None)
        if log is not None:
            log.close()
        whole(self, *args, log=None, **given)

    gateway.Gateway.__init__ = without  # type: ignore[method-assign]
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
