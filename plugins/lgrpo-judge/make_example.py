"""Writes the tiny reward model of ``example.yaml``, with random weights: ``runs/tiny_reward_model``."""

from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from lgrpo_lightning.policy.config import ASSETS

tokenizer = AutoTokenizer.from_pretrained(ASSETS / "arithmetic")
size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
config = LlamaConfig(vocab_size=len(tokenizer), num_labels=1, num_key_value_heads=2, **size)
LlamaForSequenceClassification(config).save_pretrained("runs/tiny_reward_model")
tokenizer.save_pretrained("runs/tiny_reward_model")
