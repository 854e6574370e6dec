-- One row: what some selector of the ownership map asks for, besides what identities always say. Identities say nothing
-- else, so that they stay few.
select
    list(distinct tag_key) filter (where tag_key is not null) as tag_keys,
    coalesce(bool_or(dimension = 'model'), false) as has_model,
    coalesce(bool_or(dimension = 'line_item'), false) as has_line_item
from {{ source("lake", "ownership_conditions") }}
