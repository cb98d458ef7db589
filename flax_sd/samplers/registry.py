"""The samplers: a row for each name, with its class, its constructor and what the name says."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from flax_sd.samplers.methods.consistency import (
    ConsistencyConfig,
    LCMConfig,
    make_lcm,
    make_tcd,
)
from flax_sd.samplers.methods.ddim import (
    DDIMConfig,
    DDIMInverseConfig,
    make_ddim,
    make_ddim_inverse,
)
from flax_sd.samplers.methods.ddpm import DDPMConfig, make_ddpm
from flax_sd.samplers.methods.deis import DEISConfig, make_deis
from flax_sd.samplers.methods.dpm_multistep import DPMMultistepConfig, make_dpm_multistep
from flax_sd.samplers.methods.dpm_sde import DPMSDEConfig, make_dpm_sde
from flax_sd.samplers.methods.dpm_singlestep import DPMSinglestepConfig, make_dpm_singlestep
from flax_sd.samplers.methods.edm import (
    EDMConfig,
    EDMMultistepConfig,
    make_edm_dpm_multistep,
    make_edm_euler,
)
from flax_sd.samplers.methods.euler import (
    EulerAncestralConfig,
    EulerConfig,
    make_euler,
    make_euler_ancestral,
)
from flax_sd.samplers.methods.flow_match import (
    FlowMatchConfig,
    FlowMatchEulerConfig,
    make_flow_match_euler,
    make_flow_match_heun,
)
from flax_sd.samplers.methods.heun import HeunConfig, make_heun
from flax_sd.samplers.methods.ipndm import IPNDMConfig, make_ipndm
from flax_sd.samplers.methods.kdpm2 import KDPM2Config, make_kdpm2, make_kdpm2_ancestral
from flax_sd.samplers.methods.lms import LMSConfig, make_lms
from flax_sd.samplers.methods.pndm import PNDMConfig, make_pndm
from flax_sd.samplers.methods.sa_solver import SASolverConfig, make_sa_solver
from flax_sd.samplers.methods.unipc import UniPCConfig, make_unipc
from flax_sd.samplers.sampler import Sampler


class Entry(NamedTuple):
    """A sampler.

    Attributes:
      class_name: its class in diffusers.
      title: its name in web UIs.
      config_class: the fields that the class reads.
      make: its constructor: (config, number of steps, keyword-only step options).
      config: what the name says beside the class.
      aliases: further names, of ComfyUI and sd-scripts, as `plain` writes them.
    """

    class_name: str
    title: str
    config_class: type
    make: Callable[..., Sampler]
    config: Mapping[str, object] = MappingProxyType({})
    aliases: tuple[str, ...] = ()


_MULTISTEP = "DPMSolverMultistepScheduler", DPMMultistepConfig, make_dpm_multistep


def _multistep(title: str, aliases: tuple[str, ...] = (), **config: object) -> Entry:
    """Returns an entry of the class that many names of web UIs are."""
    class_name, config_class, make = _MULTISTEP
    return Entry(class_name, title, config_class, make, MappingProxyType(config), aliases)


_SDE: Any = {"algorithm_type": "sde-dpmsolver++"}

# The first of a class is the one that the class's own name stands for.
SAMPLERS = MappingProxyType(
    {
        "ddim": Entry("DDIMScheduler", "DDIM", DDIMConfig, make_ddim),
        "ddpm": Entry("DDPMScheduler", "DDPM", DDPMConfig, make_ddpm),
        "pndm": Entry("PNDMScheduler", "PLMS", PNDMConfig, make_pndm, aliases=("plms",)),
        "euler": Entry(
            "EulerDiscreteScheduler", "Euler", EulerConfig, make_euler, aliases=("k_euler",)
        ),
        "euler_a": Entry(
            "EulerAncestralDiscreteScheduler",
            "Euler a",
            EulerAncestralConfig,
            make_euler_ancestral,
            aliases=("euler_ancestral", "k_euler_a"),
        ),
        "heun": Entry("HeunDiscreteScheduler", "Heun", HeunConfig, make_heun, aliases=("k_heun",)),
        "lms": Entry("LMSDiscreteScheduler", "LMS", LMSConfig, make_lms, aliases=("k_lms",)),
        "dpm2": Entry(
            "KDPM2DiscreteScheduler",
            "DPM2",
            KDPM2Config,
            make_kdpm2,
            aliases=("dpm_2", "k_dpm_2"),
        ),
        "dpm2_a": Entry(
            "KDPM2AncestralDiscreteScheduler",
            "DPM2 a",
            KDPM2Config,
            make_kdpm2_ancestral,
            aliases=("dpm_2_ancestral", "k_dpm_2_a"),
        ),
        "dpmpp_2m": _multistep("DPM++ 2M", ("dpmsolverpp", "dpmsolver++")),
        "dpmpp_2m_sde": _multistep("DPM++ 2M SDE", **_SDE),
        "dpmpp_2m_sde_heun": _multistep("DPM++ 2M SDE Heun", solver_type="heun", **_SDE),
        "dpmpp_3m": _multistep("DPM++ 3M", solver_order=3),
        "dpmpp_3m_sde": _multistep("DPM++ 3M SDE", solver_order=3, **_SDE),
        "dpmpp_2s": Entry(
            "DPMSolverSinglestepScheduler",
            "DPM++ 2S",
            DPMSinglestepConfig,
            make_dpm_singlestep,
            aliases=("dpmsingle",),
        ),
        "dpmpp_sde": Entry("DPMSolverSDEScheduler", "DPM++ SDE", DPMSDEConfig, make_dpm_sde),
        "unipc": Entry(
            "UniPCMultistepScheduler",
            "UniPC",
            UniPCConfig,
            make_unipc,
            aliases=("uni_pc_bh2", "uni_pc"),
        ),
        "deis": Entry("DEISMultistepScheduler", "DEIS", DEISConfig, make_deis),
        "ipndm": Entry("IPNDMScheduler", "IPNDM", IPNDMConfig, make_ipndm),
        "sa_solver": Entry("SASolverScheduler", "SA-Solver", SASolverConfig, make_sa_solver),
        "lcm": Entry("LCMScheduler", "LCM", LCMConfig, make_lcm),
        "tcd": Entry("TCDScheduler", "TCD", ConsistencyConfig, make_tcd),
        "ddim_inverse": Entry(
            "DDIMInverseScheduler", "DDIM inverse", DDIMInverseConfig, make_ddim_inverse
        ),
        "edm_euler": Entry("EDMEulerScheduler", "EDM Euler", EDMConfig, make_edm_euler),
        "edm_dpmpp_2m": Entry(
            "EDMDPMSolverMultistepScheduler",
            "EDM DPM++ 2M",
            EDMMultistepConfig,
            make_edm_dpm_multistep,
        ),
        "flow_euler": Entry(
            "FlowMatchEulerDiscreteScheduler",
            "Flow Euler",
            FlowMatchEulerConfig,
            make_flow_match_euler,
        ),
        "flow_heun": Entry(
            "FlowMatchHeunDiscreteScheduler", "Flow Heun", FlowMatchConfig, make_flow_match_heun
        ),
    }
)
