"""The cost model: what a run will put through the model, and how long that takes on this machine."""

from tl_toxmem.plan.planning import Plan, StageCost, plan_run

__all__ = ["Plan", "StageCost", "plan_run"]
