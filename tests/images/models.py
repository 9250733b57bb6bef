"""Tiny models of text and images with random weights and their processors, as folders that transformers loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from lgrpo_lightning.policy.processor import make_no_video, make_without_video
from tests.models import VOCABULARY, far_from_uniform
from tools.make_arithmetic import character_tokenizer

CHARACTERS = [*VOCABULARY, "?", ":", ".", "H"]
TEMPLATE = (
    "{% for message in messages %}{{ message.role[0] }}:{% for part in message.content %}"
    "{% if part.type == 'image' %}PLACEHOLDER{% else %}{{ part.text }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)
TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "head_dim": 16,
}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 14,
    "image_size": 28,
}
PROCESSORS = {"Qwen3VLMoe": "Qwen3VL", "Qwen3_5": "Qwen3VL"}
"""Whose processor a model uses that has none of its own."""
Made = tuple[Any, Any, str]
"""Configuration, processor, and what stands for an image in a text."""


def make_tokenizer(*special: str, **named: str) -> Any:
    """One token a character, special tokens, and those that a processor knows by a name."""
    made = character_tokenizer(CHARACTERS, extra_special_tokens=named)
    made.add_special_tokens({"additional_special_tokens": [*special, *named.values()]})
    return made


def find_image_processor(name: str, **options: Any) -> Any:
    """The image processor of that name, by whatever backend there is."""
    return getattr(hf, name if hf.utils.is_torchvision_available() else f"{name}Pil")(**options)


def make_qwen(name: str, **vision: Any) -> Made:
    """Qwen's models: patches in a row, positions of three kinds."""
    tokens = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")
    tokenizer = make_tokenizer(*tokens)
    start, image, _, video = tokenizer.convert_tokens_to_ids(list(tokens))
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
    text = TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope}
    if name == "Qwen3_5":
        text |= {"layer_types": ["linear_attention", "full_attention"]}
    tower = {"depth": 2, "num_heads": 2, "patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2} | vision
    config = getattr(hf, f"{name}Config")(
        text_config=text, vision_config=tower, image_token_id=image, video_token_id=video, vision_start_token_id=start
    )
    pixels = {"shortest_edge": 28 * 28, "longest_edge": 84 * 84}
    images = find_image_processor("Qwen2VLImageProcessor", patch_size=14, merge_size=2, size=pixels)
    return (
        config,
        make_without_video(getattr(hf, f"{PROCESSORS.get(name, name)}Processor"))(images, tokenizer, make_no_video()),
        "".join(tokens[:3]),
    )


def make_gemma3() -> Made:
    """Gemma 3: as many tokens for every image, which see each other in both directions."""
    tokenizer = make_tokenizer(boi_token="<start_of_image>", image_token="<soft>", eoi_token="<end_of_image>")
    text = TEXT | {
        "vocab_size": len(tokenizer),
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    config = hf.Gemma3Config(
        text_config=text,
        vision_config=TOWER | {"image_size": 56},
        mm_tokens_per_image=4,
        image_token_id=tokenizer.image_token_id,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
    )
    images = find_image_processor("Gemma3ImageProcessor", size={"height": 56, "width": 56})
    return config, hf.Gemma3Processor(images, tokenizer, image_seq_length=4), "<start_of_image>"


def make_idefics3(name: str = "Idefics3") -> Made:
    """Idefics3 and SmolVLM: images in pieces, stacked by prompt."""
    rows = [f"<row_{i}_col_{j}>" for i in range(1, 5) for j in range(1, 5)]
    tokenizer = make_tokenizer("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *rows)
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = getattr(hf, f"{name}Config")(
        text_config=TEXT | {"vocab_size": len(tokenizer), "model_type": "llama"},
        vision_config=TOWER | {"image_size": 56},
        scale_factor=2,
        image_token_id=image,
        pad_token_id=0,
    )
    images = find_image_processor(
        f"{name}ImageProcessor", size={"longest_edge": 112}, max_image_size={"longest_edge": 56}
    )
    parts = (images, tokenizer) if name == "Idefics3" else (images, tokenizer, make_no_video())
    return config, make_without_video(getattr(hf, f"{name}Processor"))(*parts, image_seq_len=4), "<image>"


def make_internvl() -> Made:
    """InternVL: pieces of images in a row."""
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = make_tokenizer(**named)
    text = TEXT | {"vocab_size": len(tokenizer), "model_type": "qwen2"}
    config = hf.InternVLConfig(
        text_config=text,
        vision_config=TOWER | {"image_size": [28, 28], "patch_size": [14, 14]},
        downsample_ratio=0.5,
        image_token_id=tokenizer.context_image_token_id,
    )
    images = find_image_processor(
        "GotOcr2ImageProcessor", size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=4
    )
    return (
        config,
        make_without_video(hf.InternVLProcessor)(images, tokenizer, make_no_video(), image_seq_length=1),
        "<IMG_CONTEXT>",
    )


def make_llava_next() -> Made:
    """LLaVA-NeXT: pieces of images, as many as the largest has."""
    tokenizer = make_tokenizer("<image>")
    text = TEXT | {"vocab_size": len(tokenizer), "model_type": "llama"}
    pinpoints = [[28, 56], [56, 28], [56, 56]]
    config = hf.LlavaNextConfig(
        text_config=text,
        vision_config=TOWER | {"model_type": "clip_vision_model", "projection_dim": 32},
        image_grid_pinpoints=pinpoints,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    images = find_image_processor(
        "LlavaNextImageProcessor",
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
        image_grid_pinpoints=pinpoints,
    )
    processor = hf.LlavaNextProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return config, processor, "<image>"


QWEN25 = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": 64,
    "window_size": 56,
    "fullatt_block_indexes": [1],
}
QWEN3 = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": 64,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0],
}


def make_llava(name: str = "Llava") -> Made:
    """LLaVA and VipLLaVA: as many tokens for every image."""
    tokenizer = make_tokenizer("<image>")
    config = getattr(hf, f"{name}Config")(
        text_config=TEXT | {"vocab_size": len(tokenizer), "model_type": "llama"},
        vision_config=TOWER | {"model_type": "clip_vision_model", "projection_dim": 32},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        **({"vision_feature_layers": [-1, -2]} if name == "VipLlava" else {}),
    )
    size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    images = find_image_processor("CLIPImageProcessor", **size)
    processor = hf.LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return config, processor, "<image>"


def make_idefics2() -> Made:
    """Idefics2: a perceiver, images stacked by prompt."""
    tokenizer = make_tokenizer("<fake_token_around_image>", "<image>", "<end_of_utterance>")
    config = hf.Idefics2Config(
        text_config=TEXT | {"vocab_size": len(tokenizer), "model_type": "mistral", "sliding_window": None},
        vision_config=TOWER | {"image_size": 56},
        perceiver_config={
            "hidden_size": 64,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    size = {"size": {"longest_edge": 56, "shortest_edge": 28}}
    images = find_image_processor("Idefics2ImageProcessor", do_image_splitting=False, **size)
    return config, hf.Idefics2Processor(images, tokenizer, image_seq_len=4), "<image>"


def make_llava_onevision() -> Made:
    """LLaVA-OneVision: pieces of images in rows with a token at their ends."""
    tokenizer = make_tokenizer("<image>", "<video>")
    pinpoints = [[28, 28], [28, 56], [56, 28], [56, 56]]
    config = hf.LlavaOnevisionConfig(
        text_config=TEXT | {"vocab_size": len(tokenizer), "model_type": "qwen2"},
        vision_config=TOWER | {"model_type": "siglip_vision_model", "vision_use_head": False},
        image_grid_pinpoints=pinpoints,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
    )
    images = find_image_processor(
        "LlavaOnevisionImageProcessor", size={"height": 28, "width": 28}, image_grid_pinpoints=pinpoints
    )
    kind = make_without_video(hf.LlavaOnevisionProcessor)
    parts = (images, tokenizer, make_no_video())
    return config, kind(*parts, num_image_tokens=4, vision_feature_select_strategy="full"), "<image>"


def make_aya_vision() -> Made:
    """Aya Vision: pieces of images in a row."""
    tokenizer = make_tokenizer(
        "<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL"
    )
    config = hf.AyaVisionConfig(
        text_config=TEXT | {"vocab_size": len(tokenizer), "model_type": "cohere2", "sliding_window": 8},
        vision_config=TOWER | {"model_type": "siglip_vision_model", "vision_use_head": False},
        downsample_factor=2,
        adapter_layer_norm_eps=1e-6,
        image_token_id=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )
    images = find_image_processor(
        "GotOcr2ImageProcessor", size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=4
    )
    processor = hf.AyaVisionProcessor(images, tokenizer, patch_size=14, img_size=28, downsample_factor=2)
    return config, processor, "<image>"


FAMILIES: dict[str, Callable[[], Made]] = {
    "qwen2_5_vl": lambda: make_qwen("Qwen2_5_VL", **QWEN25),
    "qwen3_vl": lambda: make_qwen("Qwen3VL", **QWEN3),
    "gemma3": make_gemma3,
    "idefics3": make_idefics3,
    "smolvlm": lambda: make_idefics3("SmolVLM"),
    "internvl": make_internvl,
    "llava_next": make_llava_next,
}
FURTHER: dict[str, Callable[[], Made]] = {
    "qwen2_vl": lambda: make_qwen("Qwen2VL", embed_dim=32, hidden_size=64, mlp_ratio=2),
    "qwen3_vl_moe": lambda: make_qwen("Qwen3VLMoe", **QWEN3),
    "qwen3_5": lambda: make_qwen("Qwen3_5", **QWEN3),
    "llava": make_llava,
    "vipllava": lambda: make_llava("VipLlava"),
    "llava_onevision": make_llava_onevision,
    "idefics2": make_idefics2,
    "aya_vision": make_aya_vision,
}
"""Of other model types; their tests are slow ones."""


def write_image_model(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a tiny model and its processor."""
    config, processor, placeholder = (FAMILIES | FURTHER)[family]()
    processor.chat_template = processor.tokenizer.chat_template = TEMPLATE.replace("PLACEHOLDER", placeholder)
    torch.manual_seed(seed)
    model = hf.AutoModelForImageTextToText.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():  # Gemma's projector, which would hide every image
            torch.nn.init.normal_(parameter, std=0.02)
    far_from_uniform(model, 3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
