{% macro digest_of(relations) %}
{#- SHA-256 of all rows of `relations`, in whatever order they are stored: equal where the contents are. -#}
sha256(concat_ws(
    ' '
    {%- for relation in relations %},
    (select sha256(coalesce(string_agg(to_json(contents)::varchar, chr(10) order by to_json(contents)::varchar), ''))
    from {{ relation }} as contents)
    {%- endfor %}
))
{%- endmacro %}
