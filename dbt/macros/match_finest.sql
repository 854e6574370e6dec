{#
  Which cells each named thing agrees with, at the finest level at which any cell agrees.

  `named` and `cells` are relations with usage_date, provider, account_id and every dimension in `levels`; `named`
  has `named_id`, `cells` has `cell_id`. Two rows agree on a dimension when their values are equal or one of both
  does not say; a dimension in `strict` has to be said by the cell where the named thing says it. With `reserved`, a
  dimension that only cells say and a list of others: where a cell says the first, the named thing has to say those of
  the others that the cell says. `levels` is a list of (name, dimensions), finest first: a thing that agrees with no
  cell on all dimensions of one level is tried at the next. Result: named_id, cell_id, match_level.

  Rows are joined on equality only: on each side a dimension that the other side's rows do not say is blanked out,
  once per combination of said dimensions, of which there are few.
#}
{% macro match_finest(named, cells, levels, strict=[], reserved=(none, [])) %}
    with
    {% for name, dimensions in levels %}
    {%- set n = loop.index %}
    named_{{ n }} as (
        select *, {{ said(dimensions) }} as said
        from {{ named }}
        {% if not loop.first %}
        where named_id not in (select named_id from found_{{ n - 1 }})
        {% endif %}
    ),
    cells_{{ n }} as (select *, {{ said(dimensions) }} as said from {{ cells }}),
    patterns_{{ n }} as (
        select distinct named_side.provider, named_side.account_id, named_side.said as named_said,
            cell_side.said as cell_said
        from (select distinct provider, account_id, said from named_{{ n }}) as named_side
        inner join (select distinct provider, account_id, said from cells_{{ n }}) as cell_side
            on named_side.provider = cell_side.provider
            and named_side.account_id is not distinct from cell_side.account_id
            {% for dimension in dimensions if dimension in strict %}
            and not (
                substr(named_side.said, {{ dimensions.index(dimension) + 1 }}, 1) = '1'
                and substr(cell_side.said, {{ dimensions.index(dimension) + 1 }}, 1) = '0'
            )
            {% endfor %}
            {% for dimension in dimensions if dimension in reserved[1] %}
            and not (
                substr(cell_side.said, {{ dimensions.index(reserved[0]) + 1 }}, 1) = '1'
                and substr(cell_side.said, {{ dimensions.index(dimension) + 1 }}, 1) = '1'
                and substr(named_side.said, {{ dimensions.index(dimension) + 1 }}, 1) = '0'
            )
            {% endfor %}
    ),
    named_side_{{ n }} as ({{ one_side("named_" ~ n, "patterns_" ~ n, "named_id", "named_said", "cell_said", dimensions) }}),
    cell_side_{{ n }} as ({{ one_side("cells_" ~ n, "patterns_" ~ n, "cell_id", "cell_said", "named_said", dimensions) }}),
    level_{{ n }} as (
        select distinct named_side.named_id, cell_side.cell_id, '{{ name }}' as match_level
        from named_side_{{ n }} as named_side
        inner join cell_side_{{ n }} as cell_side
            on named_side.usage_date = cell_side.usage_date
            and named_side.provider = cell_side.provider
            and named_side.account_id is not distinct from cell_side.account_id
            and named_side.named_said = cell_side.named_said
            and named_side.cell_said = cell_side.cell_said
            {% for dimension in dimensions %}
            and named_side.{{ dimension }} is not distinct from cell_side.{{ dimension }}
            {% endfor %}
    ),
    found_{{ n }} as (
        select named_id from level_{{ n }}
        {% if not loop.first %}
        union all
        select named_id from found_{{ n - 1 }}
        {% endif %}
    ){{ "," if not loop.last }}
    {% endfor %}
    {% for name, dimensions in levels %}
    select named_id, cell_id, match_level from level_{{ loop.index }}
    {{ "union all" if not loop.last }}
    {% endfor %}
{% endmacro %}

{# A string with one character per dimension: 1 where the row says it. #}
{% macro said(dimensions) -%}
    concat('' {%- for dimension in dimensions -%} , case when {{ dimension }} is null then '0' else '1' end {%- endfor -%} )
{%- endmacro %}

{% macro one_side(rows, patterns, id, own, other, dimensions) -%}
    select
        this.{{ id }}, this.usage_date, this.provider, this.account_id, patterns.named_said, patterns.cell_said
        {%- for dimension in dimensions %},
        case when substr(patterns.{{ other }}, {{ loop.index }}, 1) = '1' then this.{{ dimension }} end as {{ dimension }}
        {%- endfor %}
    from {{ rows }} as this
    inner join {{ patterns }} as patterns
        on this.provider = patterns.provider
        and this.account_id is not distinct from patterns.account_id
        and this.said = patterns.{{ own }}
{%- endmacro %}
