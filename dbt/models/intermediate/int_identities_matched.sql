-- One row per identity and selector of the ownership map of which every condition holds.
with said as (
    {%- for dimension, columns in selector_columns().items() %}{% for column in columns %}
    select identity_id, '{{ dimension }}' as dimension, null as tag_key, {{ column }} as value
    from {{ ref("int_identities") }}
    where {{ column }} is not null
    union all
    {%- endfor %}{% endfor %}
    select
        identity_id,
        'tag' as dimension,
        unnest(map_keys(deciding_tags)) as tag_key,
        lower(trim(unnest(map_values(deciding_tags)))) as value
    from {{ ref("int_identities") }}
),

distinct_values as (select distinct dimension, tag_key, value from said),

-- A glob is compared with those values only that begin as it begins, or end as it ends where it begins with a wildcard.
globs as (
    select
        *,
        case when fixed_start <> '' or fixed_end = '' then 'start' else 'end' end as side,
        case when fixed_start <> '' or fixed_end = '' then fixed_start else fixed_end end as fixed
    from (
        select
            *,
            {{ fixed_text("like_pattern", "start") }} as fixed_start,
            {{ fixed_text("like_pattern", "end") }} as fixed_end
        from {{ source("lake", "ownership_conditions") }}
        where like_pattern is not null
    ) as conditions
),

ends as (
    select
        distinct_values.*,
        lengths.side,
        case lengths.side
            when 'start' then left(distinct_values.value, lengths.fixed_length)
            when 'end' then right(distinct_values.value, lengths.fixed_length)
        end as fixed
    from distinct_values
    inner join (select distinct dimension, tag_key, side, length(fixed) as fixed_length from globs) as lengths
        on distinct_values.dimension = lengths.dimension
        and distinct_values.tag_key is not distinct from lengths.tag_key
),

holding as (
    select distinct_values.*, conditions.selector_id
    from distinct_values
    inner join {{ source("lake", "ownership_conditions") }} as conditions
        on distinct_values.dimension = conditions.dimension
        and distinct_values.tag_key is not distinct from conditions.tag_key
        and distinct_values.value = conditions.value
    union
    select ends.dimension, ends.tag_key, ends.value, globs.selector_id
    from ends
    inner join globs
        on ends.dimension = globs.dimension
        and ends.tag_key is not distinct from globs.tag_key
        and ends.side = globs.side
        and ends.fixed = globs.fixed
        and ends.value like globs.like_pattern escape '\'
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
    selectors.selector,
    selectors.is_implied,
    selectors.level,
    selectors.keys,
    selectors.exact_keys,
    selectors.level >= {{ claim_level() }} as is_claim
from held
inner join {{ source("lake", "ownership_selectors") }} as selectors
    on held.selector_id = selectors.selector_id
    and held.conditions_held = selectors.conditions
