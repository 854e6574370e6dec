-- One row per identity: everything about fragments that the ownership map can ask for, and nothing else.
select
    identity_id,
    {%- for column in identity_columns() %}
    any_value({{ column }}) as {{ column }}{{ "," if not loop.last }}
    {%- endfor %}
from {{ ref("int_fragments_identified") }}
group by identity_id
