"""Packaging of audio-gst."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

RAY = ["ray>=2.40"]
TRITON = "triton>=3.3; platform_system == 'Linux'"  # on CPU its interpreter runs the kernel's tests
MEDIA = ["av>=12", "py7zr>=0.22"]  # m4a, aac and webm; 7z archives

setup(
    name="audio-gst",
    version="0.1.0",
    description="Grouped sequential training of audio language models on DeepSpeed ZeRO-3",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["pipeline", "pipeline.*", "data_prep", "data_prep.*", "ds_configs"]),
    package_data={
        "pipeline": [
            "recipes/*.yaml",
            "recipes/*/*.yaml",
            "report/*.css",
            "affinity/service/page/*",
            "models/shapes/*.json",
        ],
        "data_prep": ["look/*.css", "look/*.js"],
        "ds_configs": ["*.json", "*.md", "*.example", "*.sbatch"],
    },
    install_requires=[
        "torch>=2.5",
        "deepspeed>=0.19,<0.20",
        "transformers>=5.20,<6",
        "peft>=0.21",
        "pytorch_optimizer>=4.1",
        "schedulefree>=1.4",
        "dog-optimizer>=1.0.3",
        "webdataset>=1.0",
        "fsspec[http]>=2024.10",
        "mlflow>=3.1",
        "numpy>=1.26",
        "scipy>=1.11",
        "scikit-learn>=1.5",
        "threadpoolctl>=3.1",
        "numba>=0.60",
        "safetensors>=0.4",
        "pyarrow>=15",
        "pydantic>=2.7",
        "PyYAML>=6",
        "packaging>=23",
        "typer>=0.29",
        "rich>=13",
        "matplotlib>=3.8",
        "fastapi>=0.110",
        "uvicorn>=0.29",
        "requests>=2.31",
        "prometheus-client>=0.20",
        "psutil>=5.9",
        "limits>=3.10",
        "jiwer>=4",
        "rapidfuzz>=3.9",
        "sacrebleu>=2.4",
        "soundfile>=0.13",
        "soxr>=0.5",
        "espeakng-loader>=0.2",
    ],
    extras_require={
        "gpu": ["flash-attn>=2.7", "liger-kernel>=0.5", "nvidia-ml-py>=12"],
        "voxtral": ["mistral-common>=1.8"],  # the tokenizer of published Voxtral models
        "ray": RAY,
        "media": MEDIA,
        "bench": [
            "accelerate>=1.10",  # what HF Trainer runs on
            "imageio-ffmpeg>=0.5",
            "traker>=0.3.2",
            "dattri>=0.3",
        ],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6",
            "rouge-score>=0.1.2",  # what the metrics are compared with
            "schemathesis>=4",  # fuzzes the affinity service by its own OpenAPI
            "playwright>=1.40",  # drives the browser that is installed; it downloads none
            "ruff>=0.6",
            "mypy>=1.10",
            *RAY,
            *MEDIA,
            TRITON,
        ],
    },
    entry_points={"console_scripts": ["gst = pipeline.cli.main:main", "gst-data = data_prep.cli:main"]},
)
