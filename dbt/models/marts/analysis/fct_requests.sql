-- One row per request that a gateway logged, with every column of the cross-provider schema.
-- A view over the lake: requests are many, and are copied nowhere.
select *
from {{ source("lake", "requests") }}
