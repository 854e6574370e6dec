-- One row per project, key, person or team at a provider or gateway, and period in which it had one name.
select
    kind,
    provider,
    account_id,
    gateway,
    id,
    name,
    valid_from,
    valid_to
from {{ ref("int_names") }}
