-- One row per identity: everything about fragments that the ownership map can ask for, and nothing else.
select
    fragments.* exclude (tags, model, line_item),
    case when asked.has_model then fragments.model end as deciding_model,
    case when asked.has_line_item then fragments.line_item end as deciding_line_item,
    {{ tags_among("fragments.tags", "asked.tag_keys") }} as deciding_tags
from (
    select
        identity_id,
        {%- for column in identity_columns() if not column.startswith("deciding_") %}
        any_value({{ column }}) as {{ column }},
        {%- endfor %}
        any_value(tags) as tags,
        any_value(model) as model,
        any_value(line_item) as line_item
    from {{ ref("int_fragments_identified") }}
    group by identity_id
) as fragments
cross join {{ ref("int_asked_by_map") }} as asked
