"""What training costs: the clock that measures it by purpose, and the forecast from what was measured.

The names load on first use, so that reports can read the purposes without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynams._lazy import lazy_names

if TYPE_CHECKING:
    from dynams.cost.clock import Clock as Clock
    from dynams.cost.forecast import Estimate as Estimate
    from dynams.cost.forecast import Forecast as Forecast
    from dynams.cost.forecast import Outline as Outline
    from dynams.cost.forecast import estimate as estimate
    from dynams.cost.forecast import fit as fit
    from dynams.cost.purposes import PURPOSES as PURPOSES
    from dynams.cost.rates import Rates as Rates
    from dynams.cost.rates import Work as Work
    from dynams.cost.rates import measured as measured
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "clock": "Clock",
            "forecast": "Estimate Forecast Outline estimate fit",
            "purposes": "PURPOSES",
            "rates": "Rates Work measured",
        },
    )
