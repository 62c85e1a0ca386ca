import {
  CopyTextButton,
  Select,
  Table,
  type TableColumn,
} from '@backstage/core-components';
import Box from '@material-ui/core/Box';
import { useMemo, useState } from 'react';

import {
  type Chosen,
  compareRisks,
  compareTexts,
  type Filter,
  FILTERS,
  isMatch,
  MISSING,
  valuesOf,
} from './filters';
import { Owner } from './Owner';
import type { Repository } from './registry';

const PAGE = 50;
const PAGES = [PAGE, 100, 200];
const SEARCH = { searchPlaceholder: 'Search', searchTooltip: 'Search' };
const LABELS: Record<Filter, string> = {
  owner: 'Owner',
  risk: 'Risk',
  status: 'Status',
};

/** The live repositories, with search, filters, sorting, and pages past 50. */
export function LiveTable(props: {
  repositories: Repository[];
  namespace?: string | undefined;
}) {
  const { repositories, namespace } = props;
  const [chosen, setChosen] = useState<Chosen>({
    owner: [],
    risk: [],
    status: [],
  });
  const columns = useMemo(
    () => [
      ...commonColumns(namespace),
      textColumn('Status', 'status', '10%'),
      uriColumn(),
    ],
    [namespace],
  );
  const items = useMemo(
    () =>
      FILTERS.map(filter => ({
        filter,
        values: valuesOf(repositories, filter),
      })),
    [repositories],
  );
  const shown = useMemo(
    () => rows(repositories.filter(each => isMatch(each, chosen))),
    [repositories, chosen],
  );
  return (
    <>
      <Box display="flex" flexWrap="wrap" gridGap={16} mb={1}>
        {items.map(({ filter, values }) => (
          <Box key={filter} minWidth={200}>
            <Select
              multiple
              label={LABELS[filter]}
              placeholder="All"
              data-testid={`filter-${filter}`}
              items={values.map(value => ({ label: value, value }))}
              selected={chosen[filter]}
              onChange={selected =>
                setChosen(before => ({
                  ...before,
                  [filter]: Array.isArray(selected) ? selected.map(String) : [],
                }))
              }
            />
          </Box>
        ))}
      </Box>
      <Table<Repository>
        title={`Repositories (${shown.length})`}
        columns={columns}
        data={shown}
        options={options(shown.length)}
        localization={{ toolbar: SEARCH }}
      />
    </>
  );
}

/** What is governed as pending and not yet in AWS. */
export function PendingTable(props: {
  pending: Repository[];
  namespace?: string | undefined;
}) {
  const { pending, namespace } = props;
  const columns = useMemo(
    () => [
      ...commonColumns(namespace),
      textColumn('Requested', 'requested', '46%'),
    ],
    [namespace],
  );
  const shown = useMemo(() => rows(pending), [pending]);
  return (
    <Table<Repository>
      title={`Pending (${shown.length})`}
      columns={columns}
      data={shown}
      options={options(shown.length)}
      localization={{ toolbar: SEARCH }}
    />
  );
}

function commonColumns(namespace?: string): TableColumn<Repository>[] {
  return [
    {
      ...textColumn('Name', 'name', '20%'),
      highlight: true,
      defaultSort: 'asc',
    },
    {
      ...textColumn('Owner', 'owner', '16%'),
      render: ({ owner }) => <Owner owner={owner} namespace={namespace} />,
    },
    {
      ...textColumn('Risk', 'risk', '8%'),
      customSort: (one, other) => compareRisks(one.risk, other.risk),
    },
    textColumn('Environment', 'environment', '10%'),
  ];
}

function textColumn(
  title: string,
  field: Exclude<keyof Repository, 'id'>,
  width: string,
): TableColumn<Repository> {
  // The table makes cells as wide as their heads in pixels alone: each cell says its share, too.
  return {
    title,
    field,
    width,
    cellStyle: { width },
    render: row => row[field] ?? MISSING,
    customSort: (one, other) => compareTexts(one[field], other[field]),
  };
}

function uriColumn(): TableColumn<Repository> {
  return {
    ...textColumn('URI', 'uri', '36%'),
    render: ({ name, uri }) =>
      uri === undefined ? (
        MISSING
      ) : (
        <Box display="flex" alignItems="center" style={{ overflowWrap: 'anywhere' }}>
          <code>{uri}</code>
          <CopyTextButton
            text={uri}
            tooltipText="Copied"
            aria-label={`Copy the URI of ${name}`}
            variant="tertiary"
          />
        </Box>
      ),
  };
}

// The table writes into its rows, so it gets its own.
function rows(repositories: Repository[]): Repository[] {
  return repositories.map(each => ({ ...each }));
}

function options(count: number) {
  return {
    padding: 'dense' as const,
    draggable: false,
    thirdSortClick: false,
    emptyRowsWhenPaging: false,
    paging: count > PAGE,
    pageSize: PAGE,
    pageSizeOptions: PAGES,
  };
}
