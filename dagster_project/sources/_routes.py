"""Routes: which provider identity a gateway's traffic uses, from the entry in sources.yaml, in SQL.

A gateway knows the model and the deployment of a request but not whose account paid for it. The route
with the most conditions wins, then the one that stands first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from duckdb import ConstantExpression as Literal

from dagster_project.settings import Route

UNROUTED = "unrouted"
"""The provider of a request that the gateway sent to none that it could name (an unknown model, a
pass-through address of one's own) and that no route with a `model` or `deployment` claims."""


def identity(
    routes: Sequence[Route], *, provider: str, model: str, deployments: Sequence[str]
) -> Mapping[str, str]:
    """SQL of `provider`, `account_id`, `provider_project_id` and `api_key_id`.

    `provider` and `model` are SQL; `deployments` are the SQL of all the names that a deployment has. A
    route that says more than the provider also names the provider of a request that has none.
    """
    ranked = sorted(routes, key=lambda route: (route.model is None) + (route.deployment is None))
    conditions = [_holds(route, provider, model, deployments) for route in ranked]

    def chosen(values: Sequence[str | None], otherwise: str) -> str:
        cases = " ".join(
            f"when {condition} then {Literal(value)}"
            for condition, value in zip(conditions, values, strict=True)
        )
        return f"case {cases} else {otherwise} end" if cases else otherwise

    return {
        "provider": chosen([route.provider for route in ranked], f"coalesce({provider}, '{UNROUTED}')"),
        "account_id": chosen([route.account for route in ranked], "null"),
        "provider_project_id": chosen([route.provider_project for route in ranked], "null"),
        "api_key_id": chosen([route.api_key for route in ranked], "null"),
    }


def _holds(route: Route, provider: str, model: str, deployments: Sequence[str]) -> str:
    conditions = []
    if route.model is not None:
        conditions.append(f"{model} glob {Literal(route.model)}")
    if route.deployment is not None:
        names = " or ".join(f"{name} glob {Literal(route.deployment)}" for name in deployments)
        conditions.append(f"({names})")
    billed = f"{provider} = {Literal(route.provider)}"
    conditions.append(f"({billed} or {provider} is null)" if conditions else billed)
    return " and ".join(conditions)
