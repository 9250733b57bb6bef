"""What answers the policy's turns: games, dialogues, tools."""

from lgrpo_lightning.environments.guessing_game import GuessingGame

__all__ = ["GuessingGame"]
