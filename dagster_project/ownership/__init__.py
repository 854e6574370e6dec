"""The ownership map: whose is what, read from a folder of files that people edit in pull requests.

    teams:         who pays
    environments:  canonical names, and what callers write
    services:      what costs money, how it is recognised (`match`), and whose it is (`team`, `split`
                   or `shared`), before certain days too (`history`)
    policies:      who pays what nobody used: fees, taxes, credits, purchases (`_policies.py`)

The folder may also hold Backstage's catalogue (a Group is a team, a Component a service, `_backstage.py`) and
lists of cost centres (*.csv with the columns `team` and `cost_center`).

`load` tells every mistake at once, each with file:line:column. `OwnershipMap.tables` is the map as the
warehouse joins it.

A selector matches an identity when all its keys hold. Of several that match, this decides:

1. The lower level. A selector's level is that of its strongest key:

       10 gateway_key   11 gateway_user   12 gateway_team    whom the gateway authenticated
       20 api_key   21 principal                             who called the provider
       30 provider_project   40 account                      where it was called
       50 gateway, provider, model, line_item                nothing that was issued to somebody
       60 any selector with `tag`                            a claim: heard only where durable identity
       61 implied: the tag `service` is a service's name     is declared `shared`, or matched nothing
       62 implied: the tag `team` is a team's name

2. More keys; each tag counts as one.
3. More exact values, that is fewer globs.

A tag's key is reduced as those of records are: `{tag: {X-Feature-Name: chat}}` is `{tag: {feature: chat}}`.
The `tag_aliases` of an entry in sources.yaml do not apply here: write the key that they lead to.

Selectors of two services that are equal in all three and can match the same identity are refused when the
map is loaded: every service has an owner on every day, so both would own it, whatever their histories say.
Two cases only data shows, so that the warehouse has to find them: `{api_key: key_9f2}` and
`{api_key: "billing bot"}` are a tie if that is the id and the name of one key (as with everything that is
matched by both), and `tag_aliases` of sources.yaml may make one tag of two.
"""

from __future__ import annotations

from pathlib import Path

from dagster_project.ownership._files import files_of
from dagster_project.ownership._reader import Reader
from dagster_project.ownership.model import (
    CLAIM_LEVEL,
    ByUsage,
    Condition,
    Mistake,
    Owner,
    OwnershipError,
    OwnershipMap,
    Place,
    Policy,
    PolicyTerms,
    Selector,
    Service,
    Team,
)

__all__ = [
    "CLAIM_LEVEL",
    "ByUsage",
    "Condition",
    "Mistake",
    "Owner",
    "OwnershipError",
    "OwnershipMap",
    "Place",
    "Policy",
    "PolicyTerms",
    "Selector",
    "Service",
    "Team",
    "files_of",
    "load",
]


def load(folder: Path) -> OwnershipMap:
    """Read every .yaml, .yml and .csv file in `folder` and below. None at all is a map that owns nothing.

    Raises OwnershipError with every mistake.
    """
    if not folder.is_dir():
        what = "there is no such folder; set CHARGEBACK_OWNERSHIP to the folder of the ownership map"
        raise OwnershipError(folder, [Mistake(Place(str(folder), 1, 1), what)])
    reader = Reader()
    for found in files_of(folder):
        if isinstance(found, Mistake):
            reader.refuse(found)
        else:
            reader.read_file(*found)
    reader.finish()
    if reader.mistakes:
        raise OwnershipError(folder, reader.mistakes)
    environments = {written: key.text for written, key in reader.environments.items()}
    return OwnershipMap(reader.teams, environments, reader.services, reader.policies.read)
