"""Your own network, made slimmable: `convert` keeps its weights and gives it several widths.

from dynams import slimmable

network = slimmable.convert(model, widths=(0.5, 1.0))
logits, proxy_logits = network(images, width=(1.0, 0.5))
"""

from __future__ import annotations

from dynams.slimmable.base import Head
from dynams.slimmable.convert import convert
from dynams.slimmable.network import SlimmableNetwork
from dynams.slimmable.plain import PlainNetwork
from dynams.slimmable.widths import slim_channels

__all__ = ["Head", "PlainNetwork", "SlimmableNetwork", "convert", "slim_channels"]
