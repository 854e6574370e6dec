-- One row per source, thing and UTC day of the pull on which a listing first called the thing so.
select
    source,
    kind,
    provider,
    account_id,
    case when provider is null then source end as gateway,
    id,
    name,
    seen_date
from {{ source("lake", "names") }}
