import asyncio,sys
sys.path.insert(0,'/work/main/clients/python/src')
import keybeat
async def main():
    async with keybeat.Client('http://127.0.0.1:7927') as c:
        async with c.watch(['bob']) as ch:
            c.watch_groups(['g'*70000])
            await asyncio.sleep(2); print('py long group',c.state,c.reason)
    async with keybeat.Client('http://127.0.0.1:7927',user='zz') as c:
        async with c.watch(['bob']) as ch:
            await c.ready(); await c.set_status('x'*70000); await asyncio.sleep(2); print('py long status',c.state,c.reason)
asyncio.run(main())
