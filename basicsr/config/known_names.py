"""Names from other projects of the field that option files use: what they are, and where they come from.

They are not part of this package. An unknown name that stands here is explained, where a guess of a misspelt one would
mislead.
"""

_PLUGIN = "its files run as a plug-in of a project of yours (docs/migrating.md)"

# project: what it is, and the names that it registers
_PROJECTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "github.com/XPixelGroup/HAT": ("the Hybrid Attention Transformer, CVPR 2023", (
        "HAT", "HATModel", "ImageNetPairedDataset", "RealHATGANModel", "RealHATMSEModel")),
    "github.com/zhengchen1999/DAT": ("the Dual Aggregation Transformer, ICCV 2023", ("DAT", "DATModel")),
    "github.com/zhengchen1999/CAT": ("the Cross Aggregation Transformer, NeurIPS 2022", ("CAT", "CATModel")),
    "github.com/zhengchen1999/RGT": ("the Recursive Generalization Transformer, ICLR 2024", ("RGT", "RGTModel")),
    "github.com/gladzhang/ART": ("the Attention Retractable Transformer, ICLR 2023", ("ART", "ARTModel")),
    "github.com/HVision-NKU/SRFormer": ("SRFormer, permuted self-attention, ICCV 2023", ("SRFormer", "SRFormerModel")),
    "github.com/Francis0625/Omni-SR": ("Omni-SR, CVPR 2023", ("OmniSR", "OmniSRNet")),
    "github.com/NeonLeexiang/DLGSANet": ("DLGSANet, ICCV 2023", ("DLGSANet",)),
    "github.com/ofsoundof/GRL-Image-Restoration": ("GRL, anchored stripe attention, CVPR 2023", ("GRL",)),
    "github.com/xindongzhang/ELAN": ("ELAN, ECCV 2022", ("ELAN",)),
    "github.com/csguoh/MambaIR": ("MambaIR, ECCV 2024, and MambaIRv2, CVPR 2025", (
        "MambaIR", "MambaIRv2", "MambaIRv2Light", "MambaIRModel", "MambaIRv2Model", "MambaIRv2LightModel")),
    "github.com/XiangZ-0/HiT-SR": ("HiT-SR, ECCV 2024", ("HiT_SIR", "HiT_SNG", "HiT_SRF")),
    "github.com/LabShuHangGU/PFT-SR": ("the Progressive Focused Transformer, CVPR 2025", ("PFT", "PFTModel")),
    "github.com/YuchuanTian/IPG": ("the Image Processing GNN, CVPR 2024", ("IPG",)),
    "github.com/AVC2-UESTC/CFAT": ("CFAT, triangular windows, CVPR 2024", ("CFAT",)),
    "github.com/sunny2109/SAFMN": ("SAFMN, spatially-adaptive feature modulation, ICCV 2023", ("SAFMN",)),
    "github.com/hongyuanyu/SPAN": ("the Swift Parameter-free Attention Network, NTIRE 2024", ("SPAN",)),
    "github.com/dslisleedh/PLKSR": ("PLKSR, partial large kernels", ("PLKSR", "RealPLKSR")),
    "github.com/dslisleedh/ESC": ("ESC, convolutional self-attention, ICCV 2025", ("ESC",)),
    "github.com/eduardzamfir/seemoredetails": ("SeemoRe, ICML 2024", ("SeemoRe",)),
    "github.com/icandle/MAN": ("the Multi-scale Attention Network, NTIRE 2024", ("MAN",)),
    "github.com/swz30/Restormer": ("Restormer, restoration at full resolution, CVPR 2022", (
        "Restormer", "ImageCleanModel", "CosineAnnealingRestartCyclicLR", "Dataset_PairedImage")),
    "github.com/megvii-research/NAFNet": ("NAFNet, restoration without activations, ECCV 2022", (
        "NAFNet", "NAFNetLocal", "NAFSSR", "Baseline", "BaselineLocal", "ImageRestorationModel")),
    "github.com/caiyuanhao1998/Retinexformer": ("Retinexformer, low light, ICCV 2023", ("Retinexformer",)),
    "github.com/TencentARC/GFPGAN": ("GFPGAN, restoration of faces, CVPR 2021", (
        "GFPGANv1", "GFPGANv1Clean", "GFPGANModel", "GFPGANBilinear", "FFHQDegradationDataset")),
    "github.com/sczhou/CodeFormer": ("CodeFormer, restoration of faces, NeurIPS 2022", (
        "CodeFormer", "VQAutoEncoder", "CodeFormerModel", "VQGANModel")),
    "github.com/XPixelGroup/BasicSR": ("part of BasicSR 1.4 for video, faces or an older network", (
        "RCAN", "EDVR", "BasicVSR", "BasicVSRPlusPlus", "IconVSR", "DUF", "TOFlow", "SpyNet", "RIDNet", "ECBSR",
        "DFDNet", "HiFaceGAN", "SPADEGenerator", "StyleGAN2Generator", "StyleGAN2Discriminator",
        "StyleGAN2GeneratorBilinear", "StyleGAN2GeneratorClean", "VideoBaseModel", "EDVRModel", "VideoGANModel",
        "VideoRecurrentModel", "VideoRecurrentGANModel", "StyleGAN2Model", "HiFaceGANModel", "REDSDataset",
        "REDSRecurrentDataset", "Vimeo90KDataset", "Vimeo90KRecurrentDataset", "VideoTestDataset",
        "VideoRecurrentTestDataset", "VideoTestVimeo90KDataset", "VideoTestDUFDataset", "FFHQDataset",
        "MultiScaleGANLoss", "GANFeatLoss")),
}  # fmt: skip
_PYIQA = "pip install pyiqa, and register one function of yours that calls it (docs/migrating.md)"
_METRICS = {
    "lpips": "LPIPS, a learned distance of features, CVPR 2018",
    "dists": "DISTS, structure and texture of features",
    "musiq": "MUSIQ, quality without a reference, ICCV 2021",
    "maniqa": "MANIQA, quality without a reference",
    "clipiqa": "CLIP-IQA, quality without a reference",
    "topiq": "TOPIQ, quality with or without a reference",
    "ahiq": "AHIQ, quality with a reference",
    "vif": "VIF, visual information fidelity",
    "brisque": "BRISQUE, quality without a reference",
    "ilniqe": "IL-NIQE, quality without a reference",
    "pi": "the perceptual index of PIRM 2018",
    "ma": "the score of Ma et al., quality without a reference",
    "nrqm": "NRQM, the score of Ma et al.",
}
_OTHERS = {
    "calculate_fid": "FID compares two sets of images and not two images: compute it after a test run, by "
    "basicsr.metrics.fid (docs/migrating.md)",
    "fid": "FID compares two sets of images and not two images: compute it after a test run, by basicsr.metrics.fid "
    "(docs/migrating.md)",
    "L2Loss": "the mean of squares is MSELoss",
    "LPIPSLoss": f"it is the LPIPS distance as a loss: pip install lpips or pyiqa; {_PLUGIN}",
    "FFTLoss": f"it is the L1 distance of Fourier transforms, of many projects on BasicSR; {_PLUGIN}",
    "PSNRLoss": f"it is the negative PSNR as a loss, from github.com/megvii-research/NAFNet; {_PLUGIN}",
    "SSIMLoss": f"it is 1 - SSIM as a loss, of many projects on BasicSR; {_PLUGIN}",
    "EdgeLoss": f"it is a loss on edges, from github.com/swz30/MPRNet; {_PLUGIN}",
    "ContextualLoss": f"it is a loss on nearest features, ECCV 2018; {_PLUGIN}",
    "Adan": "it is an optimizer from github.com/sail-sg/Adan; AdamW is nearest here",
    "MuonWithAuxAdam": "it is Muon with Adam for what is no matrix, from github.com/KellerJordan/Muon; MUON is that "
    "here",
    "TrueCosineAnnealingLR": "it is PyTorch's cosine schedule; CosineAnnealingRestartLR with one period is that here",
}  # fmt: skip
_PROJECT_OF = {name: (project, what) for project, (what, names) in _PROJECTS.items() for name in names}


def describe_known_name(name: str) -> str:
    """Return what a well-known name of another project is and where it comes from; "" for any other name."""
    if name in _OTHERS:
        return _OTHERS[name]
    if metric := _METRICS.get(name.removeprefix("calculate_")):
        return f"it is {metric}: {_PYIQA}"
    project, what = _PROJECT_OF.get(name, ("", ""))
    return f"it is from {project} ({what}); {_PLUGIN}" if project else ""
