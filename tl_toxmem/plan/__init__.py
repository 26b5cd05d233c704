"""The cost model: what a run will put through the model, and how long that takes on this machine."""

from tl_toxmem.plan.planning import plan_mining, plan_run
from tl_toxmem.plan.record import LEFT_OUT, Plan, StageCost

__all__ = ["LEFT_OUT", "Plan", "StageCost", "plan_mining", "plan_run"]
