-- One row per UTC month, identity and rule that leaves it without an owner (mostly none), dearest first in the month.
{% set columns = [
    "provider", "account_id", "provider_project_id", "provider_project_name", "api_key_id", "api_key_name",
    "principal_id", "gateway", "gateway_key_id", "gateway_key_name", "gateway_team", "gateway_user",
] %}
-- What durable identity has not settled: unallocated, or owned by its tags.
with unsettled as (
    select
        allocations.*,
        resolved.level as rule_level,
        coalesce(resolved.is_split, false) as is_split,
        case
            {%- for key, value, _, _ in durable_keys() %}
            when {{ value }} <> '' then '{{ key }}'
            {%- endfor %}
        end as map_key
    from {{ ref("int_allocations") }} as allocations
    left join {{ ref("int_identities_resolved") }} as resolved
        on allocations.identity_id = resolved.identity_id
        and {{ holds_on("resolved", "allocations.usage_date") }}
        and resolved.decides
    where
        (allocations.team = 'unallocated' or allocations.owner_evidence = 'tag')
        -- what a policy divides goes where the rest goes
        and allocations.identity_id is not null
),

named as (
    select
        *,
        case map_key
            {%- for key, value, _, _ in durable_keys() %}
            when '{{ key }}' then {{ value }}
            {%- endfor %}
        end as key_value,
        case map_key
            {%- for key, value, name, _ in durable_keys() %}
            when '{{ key }}' then coalesce(nullif({{ name }}, ''), {{ value }})
            {%- endfor %}
        end as key_name,
        case
            when map_key in (
                {%- for key, _, _, needs_provider in durable_keys() if needs_provider %}
                '{{ key }}'{{ "," if not loop.last }}
                {%- endfor %}
            )
                then provider
        end as key_provider
    from unsettled
),

shown as (
    select
        * replace (
            {{ shown("key_value") }} as key_value,
            {{ shown("key_name") }} as key_name,
            {{ shown("key_provider") }} as key_provider
        )
    from named
),

recognised as (
    select
        * exclude (key_value, key_name, key_provider),
        case
            when map_key is not null
                then concat(
                    '{',
                    case
                        when key_provider is not null
                            then concat('provider: ', {{ yaml_text(sayable("key_provider")) }}, ', ')
                    end,
                    map_key, ': ', {{ yaml_text(sayable("key_value")) }}, '}'
                )
        end as selector,
        {{ sayable("key_name") }} as name,
        -- A rule that matches something as durable would only be contradicted; one for shares knows whose it is.
        rule is null
        or (
            not is_split
            and rule_level > case map_key
                {%- for key, (level, _) in selector_levels().items() %}
                when '{{ key }}' then {{ level }}
                {%- endfor %}
            end
        ) as is_for_the_map
    from shown
),

-- A guess is about a selector, not about a month: its lines are the same wherever it stands.
claims as (
    select
        selector,
        claimed_team,
        sum(cost_usd) filter (where cost_usd > 0) as claimed_usd
    from recognised
    group by all
),

guesses as (
    select
        *,
        row_number() over (partition by selector order by claimed_usd desc, claimed_team) as choice
    from (
        select
            selector,
            claimed_team,
            claimed_usd,
            round((claimed_usd / sum(claimed_usd) over (partition by selector))::decimal(38, 12), 6) as share
        from claims
        where claimed_usd is not null
    ) as shares
    where claimed_team is not null
),

lines as (
    select
        keys.selector,
        guesses.claimed_team as suggested_team,
        guesses.share as suggested_share,
        concat(
            '  ',
            concat_ws(
                '-',
                replace(keys.map_key, '_', '-'),
                nullif(trim(left(regexp_replace(lower(keys.name), '[^a-z0-9]+', '-', 'g'), 40), '-'), ''),
                left(md5(keys.selector), 8)
            ),
            ':', chr(10),
            '    team: ',
            case
                when guesses.claimed_team is null then '???  # no tag of a team was seen on it'
                else concat(
                    {{ yaml_text("guesses.claimed_team") }},
                    '  # a guess from tags: ', round(100 * guesses.share)::integer::varchar, ' % of its dollars'
                )
            end, chr(10),
            '    match: ', keys.selector
        ) as map_lines
    from (
        select selector, map_key, max(name) as name
        from recognised
        group by all
    ) as keys
    left join guesses on keys.selector = guesses.selector and guesses.choice = 1
),

unowned as (
    select
        date_trunc('month', usage_date)::date as month,
        {{ columns | join(", ") }},
        rule_place,
        selector,
        bool_and(is_for_the_map) as is_for_the_map,
        sum(cost_usd)::decimal(38, 12) as cost_usd,
        (sum(quantity) filter (where meter = 'requests'))::bigint as requests,
        min(usage_date)::date as first_date,
        max(usage_date)::date as last_date
    from recognised
    where team = 'unallocated'
    group by all
)

select
    unowned.* exclude (is_for_the_map),
    lines.suggested_team,
    lines.suggested_share::decimal(38, 6) as suggested_share,
    case when unowned.is_for_the_map then lines.map_lines end as map_lines,
    row_number() over (
        partition by unowned.month
        order by unowned.cost_usd desc nulls last, {{ columns | join(", ") }}, unowned.rule_place
    )::bigint as rank
from unowned
left join lines on unowned.selector = lines.selector
