"""The chain of stages; see `run`."""

from tl_toxmem.pipeline.chain import run

__all__ = ["run"]
