"""What an edge gives its updates to, whatever the hub asks: `[privacy]` of edge.toml. The mode of a study is the hub's to say."""

from __future__ import annotations

from wardround.learn.messages import Order
from wardround.learn.privacy.graph import EDGES_MIN, plan
from wardround.learn.privacy.modes import decode_mask_settings
from wardround.learn.privacy.patient_budget import has_noise, no_noise
from wardround.learn.study import decode_training
from wardround.settings import EdgePrivacySettings


def why_not(settings: EdgePrivacySettings, order: Order) -> str:
    """Why an edge with these settings declines an order; empty: it does not.

    Raises:
        LearnError: the order's masks or settings cannot be read.
    """
    if settings.patient_epsilon_max and (order.task != "train" or not has_noise(decode_training(order.settings))):
        return no_noise()
    if not order.masks:
        return "this edge gives updates under masks alone (privacy.blind_only)" if settings.blind_only else ""
    own = decode_mask_settings(order.masks)
    grouped = own.group_edges and order.task == "train"
    least = plan(max(EDGES_MIN, own.group_edges)).quorum if grouped else own.edges_min
    if least >= settings.sum_edges_min:
        return ""
    return f"the hub may see sums of {least} edges, and this edge wants {settings.sum_edges_min} (privacy.sum_edges_min)"
