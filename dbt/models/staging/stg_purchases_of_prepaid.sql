-- One row per line by which prepaid credits are bought, and whose usage they are for (account null: any of the provider's).
select
    lines.*,
    prepaid.of_provider,
    prepaid.of_account
from {{ ref("stg_charges_delivered") }} as lines
inner join {{ source("lake", "declared_prepaid") }} as prepaid
    on {{ is_purchase_of("lines", "prepaid") }}
