"""Finding refusal, disagreement, questions, hedging and apology in any replies, by rules on the wording."""
