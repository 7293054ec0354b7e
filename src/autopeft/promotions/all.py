"""Every trial is trained to its end at once; rungs are only measured on the way."""

from autopeft.promotions import PromotionSpec

MEMBERS = {"all": PromotionSpec("all", None, "Every trial is trained to its end; nothing is paused")}
