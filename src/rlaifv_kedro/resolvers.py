"""Resolvers of the configuration."""


def policy_path(iteration: int, base_policy: str) -> str:
    """Where the policy lies that an iteration starts from: ``${policy_path:<iteration>, <path of the base policy>}``."""
    return base_policy if int(iteration) == 1 else f"data/06_models/iteration_{int(iteration) - 1}/trained_policy"
