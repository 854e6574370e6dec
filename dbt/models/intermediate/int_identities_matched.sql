-- One row per identity and selector of the ownership map of which every condition holds.
{% set dimensions = {
    "provider": ["provider"],
    "account": ["account_id"],
    "provider_project": ["provider_project_id", "provider_project_name"],
    "api_key": ["api_key_id", "api_key_name"],
    "principal": ["principal_id", "principal_name"],
    "gateway": ["gateway"],
    "gateway_key": ["gateway_key_id", "gateway_key_name"],
    "gateway_team": ["gateway_team"],
    "gateway_user": ["gateway_user"],
    "model": ["deciding_model"],
    "line_item": ["deciding_line_item"],
} %}
with identities as (
    select
        identity_id,
        {%- for columns in dimensions.values() %}{% for column in columns %}
        any_value({{ column }}) as {{ column }},
        {%- endfor %}{% endfor %}
        any_value(deciding_tags) as deciding_tags
    from {{ ref("int_fragments_identified") }}
    group by identity_id
),

said as (
    {%- for dimension, columns in dimensions.items() %}{% for column in columns %}
    select identity_id, '{{ dimension }}' as dimension, null as tag_key, {{ column }} as value
    from identities
    where {{ column }} is not null
    union all
    {%- endfor %}{% endfor %}
    select
        identity_id,
        'tag' as dimension,
        unnest(map_keys(deciding_tags)) as tag_key,
        lower(trim(unnest(map_values(deciding_tags)))) as value
    from identities
),

distinct_values as (select distinct dimension, tag_key, value from said),

-- Globs are compared with distinct values, everything else is an equality join.
holding as (
    select distinct_values.*, conditions.selector_id
    from distinct_values
    inner join {{ source("lake", "ownership_conditions") }} as conditions
        on distinct_values.dimension = conditions.dimension
        and distinct_values.tag_key is not distinct from conditions.tag_key
        and distinct_values.value = conditions.value
    union all
    select distinct_values.*, conditions.selector_id
    from distinct_values
    inner join {{ source("lake", "ownership_conditions") }} as conditions
        on distinct_values.dimension = conditions.dimension
        and distinct_values.tag_key is not distinct from conditions.tag_key
        and distinct_values.value like conditions.like_pattern escape '\'
    where conditions.like_pattern is not null
),

held as (
    select
        said.identity_id,
        holding.selector_id,
        count(distinct concat(said.dimension, '.', coalesce(said.tag_key, ''))) as conditions_held
    from said
    inner join holding
        on said.dimension = holding.dimension
        and said.tag_key is not distinct from holding.tag_key
        and said.value = holding.value
    group by all
)

select
    held.identity_id,
    selectors.selector_id,
    selectors.rule,
    selectors.place,
    selectors.level,
    selectors.level >= {{ claim_level() }} as is_claim,
    row_number() over (
        partition by held.identity_id, selectors.level >= {{ claim_level() }}
        order by selectors.level, selectors.keys desc, selectors.exact_keys desc, selectors.selector_id
    ) as precedence
from held
inner join {{ source("lake", "ownership_selectors") }} as selectors
    on held.selector_id = selectors.selector_id
    and held.conditions_held = selectors.conditions
