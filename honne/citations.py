"""The papers behind methods and networks, as BibTeX: what people who use a model cite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CITATIONS = {
    "iern": """@inproceedings{chen2022iern,
  title = {Towards Unbiased Visual Emotion Recognition via Causal Intervention},
  author = {Chen, Yuedong and Yang, Xu and Cham, Tat-Jen and Cai, Jianfei},
  booktitle = {ACM International Conference on Multimedia},
  year = {2022}
}""",
    "causalmer": """@article{kim2024causal,
  title = {Causal Inference for Modality Debiasing in Multimodal Emotion Recognition},
  author = {Kim, Juyeon and Hong, Juyoung and Choi, Yukyung},
  journal = {Applied Sciences},
  volume = {14},
  number = {23},
  pages = {11397},
  year = {2024}
}""",
    "au_cues": """@inproceedings{belharbi2024guided,
  title = {Guided Interpretable Facial Expression Recognition via Spatial Action Unit Cues},
  author = {Belharbi, Soufiane and Pedersoli, Marco and Koerich, Alessandro Lameiras and Bacon, Simon and
            Granger, Eric},
  booktitle = {IEEE International Conference on Automatic Face and Gesture Recognition},
  year = {2024}
}""",
    "dmue": """@inproceedings{she2021dmue,
  title = {Dive into Ambiguity: Latent Distribution Mining and Pairwise Uncertainty Estimation for Facial Expression
           Recognition},
  author = {She, Jiahui and Hu, Yibo and Shi, Hailin and Wang, Jun and Shen, Qiu and Mei, Tao},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages = {6248--6257},
  year = {2021}
}""",
    "multitask": """@inproceedings{deng2020multitask,
  title = {Multitask Emotion Recognition with Incomplete Labels},
  author = {Deng, Didan and Chen, Zhaokang and Shi, Bertram E.},
  booktitle = {IEEE International Conference on Automatic Face and Gesture Recognition},
  year = {2020}
}""",
    "mult": """@inproceedings{tsai2019multimodal,
  title = {Multimodal Transformer for Unaligned Multimodal Language Sequences},
  author = {Tsai, Yao-Hung Hubert and Bai, Shaojie and Liang, Paul Pu and Kolter, J. Zico and Morency, Louis-Philippe
            and Salakhutdinov, Ruslan},
  booktitle = {Annual Meeting of the Association for Computational Linguistics},
  year = {2019}
}""",
    "pmr": """@inproceedings{lv2021progressive,
  title = {Progressive Modality Reinforcement for Human Multimodal Emotion Recognition from Unaligned Multimodal
           Sequences},
  author = {Lv, Fengmao and Chen, Xiang and Huang, Yanyong and Duan, Lixin and Lin, Guosheng},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2021}
}""",
    "dmd": """@inproceedings{li2023decoupled,
  title = {Decoupled Multimodal Distilling for Emotion Recognition},
  author = {Li, Yong and Wang, Yuanzhi and Cui, Zhen},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2023}
}""",
    "ferplus_trunk": """@inproceedings{albanie2018emotion,
  title = {Emotion Recognition in Speech using Cross-Modal Transfer in the Wild},
  author = {Albanie, Samuel and Nagrani, Arsha and Vedaldi, Andrea and Zisserman, Andrew},
  booktitle = {ACM International Conference on Multimedia},
  year = {2018}
}""",
}
"""Method, network or imported trunk -> BibTeX of its paper."""


def citations(method: str, network: Mapping[str, Any], au_cues: bool = False) -> list[str]:
    """BibTeX of what a model stands on: its method, AU cues beside it, and the fusion network in it.

    Args:
        method: as in the model's config.
        network: `kind` and `options`, as in the model's config.
        au_cues: whether its attention was aligned with them.
    """
    inner = network["options"].get("backbone")
    inside = inner["kind"] if isinstance(inner, Mapping) else network["kind"]
    names = [method, *(["au_cues"] if au_cues else []), inside]
    return [CITATIONS[name] for name in dict.fromkeys(names) if name in CITATIONS]
