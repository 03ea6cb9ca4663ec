"""Your own network, made slimmable: `convert` keeps its weights and gives it several widths.

from dynams import slimmable

network = slimmable.convert(model, widths=(0.5, 1.0))
logits, proxy_logits = network(images, width=(1.0, 0.5))
"""

from __future__ import annotations

from dynams.slimmable.convert import convert
from dynams.slimmable.network import PlainNetwork, SlimmableNetwork

__all__ = ["PlainNetwork", "SlimmableNetwork", "convert"]
