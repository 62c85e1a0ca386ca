import type { Entity } from '@backstage/catalog-model';
import { Link } from '@backstage/core-components';
import Grid from '@material-ui/core/Grid';
import Typography from '@material-ui/core/Typography';
import type { ReactNode } from 'react';

import { commitUrl, listUrl } from './links';
import type { Listed, Registry } from './registry';

const SHORT_SHA = 12;
const SHORT_DIGEST = 'sha256:'.length + 12;
const STAMP = /^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?Z$/;

/** The counts, and where the content comes from. */
export function RegistryFacts(props: { entity: Entity; registry: Registry }) {
  const { entity, registry } = props;
  const { counts, lastSync, sourceSha, digest, listed } = registry;
  return (
    <Grid container component="dl" spacing={2} style={{ margin: 0 }}>
      <Fact label="Live" value={counts.live} help="governed and in AWS" large />
      <Fact
        label="Pending"
        value={counts.pending}
        help="governed as pending, not yet in AWS"
        large
      />
      <Fact
        label="Ghosts"
        value={counts.ghost}
        help="governed as existing, absent from AWS: not listed"
        large
      />
      <Fact
        label="Orphans"
        value={counts.orphan}
        help="in AWS, not governed: not listed"
        large
      />
      <Fact
        label="Content last changed"
        value={lastSync?.replace(STAMP, '$1 $2 UTC')}
        wide
      />
      <Fact
        label="Governance commit"
        value={sourceSha && <Commit entity={entity} sha={sourceSha} />}
        wide
      />
      <Fact
        label="Content digest"
        value={
          digest ? (
            <code title={digest}>{digest.slice(0, SHORT_DIGEST)}</code>
          ) : (
            'missing: ecr-catalog did not write this entity'
          )
        }
        wide
      />
      {listed && (
        <Fact
          label="Full list"
          value={<FullList entity={entity} listed={listed} />}
          wide
        />
      )}
    </Grid>
  );
}

function Fact(props: {
  label: string;
  value: ReactNode;
  help?: string;
  large?: boolean;
  wide?: boolean;
}) {
  const { label, value, help, large, wide } = props;
  return (
    <Grid item xs={wide ? 12 : 6} sm={wide ? 4 : 3}>
      <Typography
        component="dt"
        variant="body2"
        color="textSecondary"
        title={help ?? ''}
      >
        {label}
      </Typography>
      <Typography
        component="dd"
        variant={large ? 'h5' : 'body1'}
        style={{ margin: 0, overflowWrap: 'anywhere' }}
      >
        {value ?? 'unknown'}
      </Typography>
    </Grid>
  );
}

function Commit(props: { entity: Entity; sha: string }) {
  const { entity, sha } = props;
  const url = commitUrl(entity, sha);
  const short = <code title={sha}>{sha.slice(0, SHORT_SHA)}</code>;
  return url ? <Link to={url}>{short}</Link> : short;
}

function FullList(props: { entity: Entity; listed: Listed }) {
  const { url, path, count } = props.listed;
  const where = url ?? path ?? 'unknown';
  const link = listUrl(props.entity, props.listed);
  return (
    <>
      {link ? <Link to={link}>{where}</Link> : where}
      {count !== undefined && ` (${count} repositories)`}
    </>
  );
}
